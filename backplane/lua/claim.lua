--! include thread emit session lane approval turn
-- A worker takes a ready turn. The fence is the attempt: it rises with each claim.
-- ARGV 1 request  2 worker  3 claim (a fresh id, so that a claim whose answer was lost can be asked again)
--      4 lease ms
-- Returns {'gone'} or {'claimed', fence, session_version, epoch, message, input, subject, deadline, message id,
--         began, lane, policy, text that stands, steps {name, state, …},
--         the step or question up to which it was said, or '', trace context or '', since when it was ready};
--         session_version and message id are those of the turn's own message in the session.
local request = arg(1)
local turn = read_turn(request)

-- The text that was said behind the last finished step is void. Returns how many characters stand.
local function cut_text(of, bytes)
  local key = TEXTS .. of
  local text = bytes > 0 and redis.call('GETRANGE', key, 0, bytes - 1) or ''
  redis.call('SET', key, text)
  -- in UTF-8 every character has one byte that does not continue another
  return select(2, string.gsub(text, '[^\128-\191]', ''))
end

if turn and turn.state == 'running' and turn.claim == turn.attempt .. '.' .. arg(3) then
  turn.state = 'claimed'
elseif not turn or turn.state ~= 'ready' then
  redis.call('ZREM', READY, member(request))
  return {'gone'}
elseif turn.deadline <= NOW or turn.ready_at > NOW then
  -- recover.lua ends it, so that one place tells the next follow-up; or rings when it is held back no more
  return {'gone'}
else
  local key = TURNS .. request
  turn.attempt = turn.attempt + 1
  local lease_until = NOW + tonumber(arg(4))
  redis.call('HSET', key, 'state', 'running', 'attempt', turn.attempt, 'worker', arg(2), 'claim', turn.attempt .. '.' .. arg(3),
    'lease_until', lease_until, 'batch', 0)
  redis.call('ZREM', READY, member(request))
  look_at_running(turn, lease_until, 0)
  local events, resumed, goes_on = {}, false, false
  if turn.attempt > 1 then
    local fields = '"attempt":' .. turn.attempt .. ',"policy":"' .. turn.policy .. '"'
    local kept = redis.call('HMGET', key, 'kept_offset', 'kept_text', 'parked', 'kept_seq')
    resumed = turn.policy == 'resume' and kept[1]
    -- a turn that was parked and has said nothing since goes on: there is nothing to drop
    goes_on = resumed and kept[3] and turn.seq == tonumber(kept[4])
    if resumed then
      fields = fields .. ',"kept_offset":' .. kept[1] .. ',"kept_text":' .. cut_text(request, tonumber(kept[2]))
    else
      redis.call('DEL', TEXTS .. request)
    end
    if not goes_on then
      events[1] = {'turn_restarted', fields}
    end
    redis.call('HDEL', key, 'parked')
  end
  events[#events + 1] = {'inference_start', '"attempt":' .. turn.attempt .. ',"worker":' .. cjson.encode(arg(2))}
  local last = emit(request, turn.seq, turn.envelope, events)
  if turn.attempt > 1 and not resumed then
    -- a snapshot shows this attempt only
    redis.call('HSET', key, 'first', last - 1)
  end
  keep_turn(request, turn.deadline)
end
local v = redis.call('HMGET', TURNS .. request, 'session_version', 'message', 'input', 'subject', 'deadline',
  'message_id', 'began', 'lane', 'policy',
  'kept_by', 'trace', 'ready_at')
return {'claimed', turn.attempt, v[1], redis.call('HGET', THREAD, 'epoch'), v[2], v[3], v[4], v[5], v[6], v[7], v[8],
  v[9], redis.call('GET', TEXTS .. request) or '', redis.call('HGETALL', STEPS .. request),
  v[10] or '', v[11] or '', v[12]}
