--! include thread emit session lane approval turn
-- The owner ends its turn: last events, answer, terminal event, release and hand-over in one step.
-- A turn that was asked to stop ends as cancelled, even if its answer came first to the door.
-- ARGV 1 request  2 fence  3 batch  4 text that the last events add to the answer  5 state (done | failed)
--      6 name of the terminal event  7 its fields  8 answer (JSON string), '' to keep the text so far
--      9 how its agent stopped (cooperative | hard)  10, 11, … name and fields of each last event
-- Returns {state it ended in | 'fenced', request id of the follow-up that is ready now or '',
--          session_version and newest message id after the end, now}.
local request = arg(1)
local turn = read_turn(request)
local before = redis.call('HGET', TURNS .. request, 'finished')
if before and turn.claim == arg(2) then
  return cjson.decode(before)  -- the reply was lost, and the call sent again
end
if not owned(turn, arg(2)) then
  return {'fenced', '', 0, 0, 0}
end
-- as in append.lua: what it said before is lost
if tonumber(arg(3)) > turn.batch + 1 then
  return {'fenced', '', 0, 0, 0}
end
local events = {}
if tonumber(arg(3)) > turn.batch then
  if arg(4) ~= '' then
    redis.call('APPEND', TEXTS .. request, arg(4))
  end
  for n = 10, #ARGV - 7, 2 do
    events[#events + 1] = {arg(n), arg(n + 1)}
  end
end
local state = arg(5)
turn.state = 'ending'  -- its own worker ends it: nobody has to be told to stop
if verdict(turn) == 'cancelled' then
  state = 'cancelled'
  end_cancelled(turn, arg(9), events)
else
  end_turn(turn, state, arg(6), arg(7), arg(8), events)
end
-- read before the hand-over, which adds the follow-up's message
local head = redis.call('HMGET', THREAD, 'session_version', 'messages')
local reply = {state, deliver_next(), tonumber(head[1]), tonumber(head[2]), NOW}
redis.call('HSET', TURNS .. request, 'finished', cjson.encode(reply))
return reply
