--! include thread emit session lane approval turn once
-- Stop a turn, from any node. The flag is durable; the push to the worker is for speed.
-- ARGV 1 subject  2 request, '' for the primary turn (the lanes are emptied too)  3 cancel_grace ms
--      4 call (a fresh id)
-- Returns {code, request, state it was in, follow-up that is ready now or '', requested, seen and stopped (ms, or ''
--         while it is not known), how it stopped or '', dropped request ids …};
-- code: 'cancelled', 'ended' (finished already), 'idle' (nothing runs), 'unknown' (no such request), 'not_found'.
local asked = arg(2)
if not may_see(arg(1)) then
  return {'not_found', '', '', '', '', '', '', ''}
end
local before = answered('last_cancel', arg(4))
if before then
  return before
end
local dropped = {}
local request = asked
if asked == '' then
  dropped = drop_all_waiting()
  request = redis.call('HGET', THREAD, 'running') or ''
end

local function reply(code, state, next_request)
  local v = redis.call('HMGET', TURNS .. request, 'cancel', 'cancel_seen', 'ended', 'stopped')
  return answer_with('last_cancel', arg(4), {code, request, state, next_request or '', v[1] or '', v[2] or '',
    v[4] and v[3] or '', v[4] or '', unpack(dropped)})
end

if request == '' then
  return reply('idle', 'idle')
end
local turn = read_turn(request)
if not turn then
  return reply('unknown', 'unknown')
elseif turn.state == 'queued' then
  drop_waiting(request)
  redis.call('HSET', TURNS .. request, 'cancel', NOW, 'stopped', 'unowned')
  return reply('cancelled', 'queued')
elseif turn.state == 'ready' or turn.state == 'waiting' or (turn.state == 'running' and turn.lease_until <= NOW) then
  local was = turn.state
  end_cancelled(turn, was == 'running' and 'fenced' or 'unowned')
  return reply('cancelled', was, deliver_next())
elseif turn.state == 'running' then
  if not turn.cancel then
    redis.call('HSET', TURNS .. request, 'cancel', NOW)
    turn.cancel = NOW
    look_at_running(turn, turn.lease_until, arg(3))
  end
  redis.call(PUBLISH, CONTROL, request)
  return reply('cancelled', 'running')
end
return reply('ended', turn.state)
