--! include thread emit session lane turn
-- A worker takes a ready turn. The fence is the attempt: it rises with each claim.
-- ARGV 1 request  2 worker  3 claim (a fresh id, so that a claim whose answer was lost can be asked again)
--      4 lease ms
-- Returns {'gone'} or {'claimed', fence, session_version, epoch, message, input, subject, deadline, message id,
--         began, lane}; session_version and message id are those of the turn's own message in the session.
local request = arg(1)
local turn = read_turn(request)
if turn and turn.state == 'running' and redis.call('HGET', TURNS .. request, 'claim') == arg(3) then
  turn.state = 'claimed'
elseif not turn or turn.state ~= 'ready' then
  redis.call('ZREM', READY, member(request))
  return {'gone'}
elseif turn.deadline <= NOW then
  -- recover.lua ends it: one place tells the next follow-up
  return {'gone'}
else
  local key = TURNS .. request
  turn.attempt = turn.attempt + 1
  local lease_until = NOW + tonumber(arg(4))
  redis.call('HSET', key, 'state', 'running', 'attempt', turn.attempt, 'worker', arg(2), 'claim', arg(3),
    'lease_until', lease_until, 'batch', 0)
  redis.call('ZREM', READY, member(request))
  look_at(request, math.min(lease_until, turn.deadline))
  local events = {}
  if turn.attempt > 1 then
    redis.call('DEL', TEXTS .. request)
    events[1] = {'turn_restarted', '"attempt":' .. turn.attempt}
  end
  events[#events + 1] = {'inference_start', '"attempt":' .. turn.attempt}
  local last = emit(request, turn.seq, turn.envelope, events)
  if turn.attempt > 1 then
    -- a snapshot shows this attempt only
    redis.call('HSET', key, 'first', last - 1)
  end
end
local v = redis.call('HMGET', TURNS .. request, 'session_version', 'message', 'input', 'subject', 'deadline',
  'message_id', 'began', 'lane')
return {'claimed', turn.attempt, v[1], redis.call('HGET', THREAD, 'epoch'), v[2], v[3], v[4], v[5], v[6], v[7], v[8]}
