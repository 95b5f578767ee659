--! include thread emit session lane approval turn
-- Somebody looks at a turn that is due: its doorbell may be lost, its worker dead, its deadline past.
-- Whoever calls it, from any process, the outcome is the same.
-- ARGV 1 request  2 cancel_grace ms  3 retry_backoff ms  4 ms for which an owner whose lease has lapsed may come back:
--      it could not renew it while Redis was away, and nobody else could take the turn
-- Returns {what was done, request id to ring the doorbell for or ''};
-- what: 'none', 'rung', 'taken_over', 'expired', 'cancelled', 'turn_timeout', 'worker_lost'.
local request, grace = arg(1), tonumber(arg(2))
local turn = read_turn(request)
if not turn or (turn.state ~= 'ready' and turn.state ~= 'running' and turn.state ~= 'waiting') then
  redis.call('ZREM', DUE, member(request))
  redis.call('ZREM', READY, member(request))
  return {'none', ''}
end

local function end_with(what, state, fields)
  end_turn(turn, state, 'chat_error', fields, '')
  return {what, deliver_next()}
end

if expire_approvals(request) > 0 then
  turn = read_turn(request)
  if turn.state == 'waiting' then
    make_ready(request, turn.lane, turn.deadline)
    return {'expired', request}
  end
  redis.call(PUBLISH, CONTROL, request)
end
if turn.state == 'waiting' then
  -- nobody's heartbeat does it meanwhile
  keep_thread()
  keep_turn(request, turn.deadline)
  look_at(request, math.min(turn.decide_by, NOW + LOOK_MS))
  return {'none', ''}
end
if NOW >= turn.deadline then
  return end_with('turn_timeout', 'failed', TIMED_OUT)
end
if turn.state == 'ready' then
  if NOW < turn.ready_at then
    look_at(request, math.min(turn.ready_at, turn.deadline))
    return {'none', ''}
  end
  if redis.call('HGET', TURNS .. request, 'held_back') == '1' then
    redis.call('HSET', TURNS .. request, 'held_back', 0)
    look_at(request, math.min(NOW + RING_AGAIN_MS, turn.deadline))
    return {'rung', request}
  end
  if NOW - turn.ready_at < RING_AGAIN_MS then
    look_at(request, math.min(turn.ready_at + RING_AGAIN_MS, turn.deadline))
    return {'none', ''}
  end
  -- a turn that waits for a free slot is not lost: ring ever more rarely
  local pause = math.min(NOW - turn.ready_at, RING_AGAIN_MAX_MS)
  look_at(request, math.min(NOW + pause, turn.deadline))
  return {'rung', request}
end
local owner_until = math.max(turn.lease_until, tonumber(arg(4)) > 0 and NOW + arg(4) or 0)
local lapsed = NOW >= owner_until
if turn.cancel and (lapsed or NOW >= turn.cancel + grace) then
  end_cancelled(turn, 'fenced')
  return {'cancelled', deliver_next()}
end
if not lapsed then
  look_at_running(turn, owner_until, grace)
  return {'none', ''}
end
turn.lost = turn.lost + 1
redis.call('HSET', TURNS .. request, 'lost', turn.lost)
if turn.policy == 'fail' or turn.lost >= turn.max_attempts then
  return end_with('worker_lost', 'failed', WORKER_LOST)
end
redis.call(PUBLISH, CONTROL, request)
if turn.lost == 1 then
  make_ready(request, turn.lane, turn.deadline)
  return {'taken_over', request}
end
-- one lost worker says nothing about the turn; a second one may mean that the turn is what kills them
local pause = math.min(tonumber(arg(3)) * 2 ^ (turn.lost - 2), BACKOFF_MAX_MS)
make_ready(request, turn.lane, turn.deadline, NOW + pause)
return {'taken_over', ''}
