--! include thread emit session lane turn
-- Somebody looks at a turn that is due: its doorbell may be lost, its worker dead, its deadline past.
-- Whoever calls it, from any process, the outcome is the same.
-- ARGV 1 request  2 cancel_grace ms
-- Returns {what was done, request id to ring the doorbell for or ''};
-- what: 'none', 'rung', 'taken_over', 'cancelled', 'turn_timeout', 'worker_lost'.
local request, grace = arg(1), tonumber(arg(2))
local turn = read_turn(request)
if not turn or (turn.state ~= 'ready' and turn.state ~= 'running') then
  redis.call('ZREM', DUE, member(request))
  redis.call('ZREM', READY, member(request))
  return {'none', ''}
end

local function end_with(what, state, fields)
  end_turn(turn, state, 'chat_error', fields, '')
  return {what, deliver_next()}
end

if NOW >= turn.deadline then
  return end_with('turn_timeout', 'failed', TIMED_OUT)
end
if turn.state == 'ready' then
  if NOW - turn.ready_at < RING_AGAIN_MS then
    look_at(request, math.min(turn.ready_at + RING_AGAIN_MS, turn.deadline))
    return {'none', ''}
  end
  -- a turn that waits for a free slot is not lost: ring ever more rarely
  local pause = math.min(NOW - turn.ready_at, RING_AGAIN_MAX_MS)
  look_at(request, math.min(NOW + pause, turn.deadline))
  return {'rung', request}
end
local lapsed = NOW >= turn.lease_until
if turn.cancel and (lapsed or NOW >= turn.cancel + grace) then
  return end_with('cancelled', 'cancelled', CANCELLED)
end
if not lapsed then
  local at = math.min(turn.lease_until, turn.deadline)
  if turn.cancel then
    at = math.min(at, turn.cancel + grace)
  end
  look_at(request, at)
  return {'none', ''}
end
turn.lost = turn.lost + 1
redis.call('HSET', TURNS .. request, 'lost', turn.lost)
if turn.lost >= turn.max_attempts then
  return end_with('worker_lost', 'failed', WORKER_LOST)
end
make_ready(request, turn.lane, turn.deadline)
redis.call(PUBLISH, CONTROL, request)
return {'taken_over', request}
