--! include thread emit session lane approval turn
-- The owner of a turn appends a batch of events. Safe to send twice: a batch that was written is not written again.
-- ARGV 1 request  2 fence  3 batch (1, 2, 3, … within the attempt)  4 text that these events add to the answer
--      5, 6, … name and fields of each event
-- Returns {'ok' | 'cancelled' | 'fenced', offset of the last event}.
local request = arg(1)
local turn = read_turn(request)
if not owned(turn, arg(2)) then
  return {'fenced', 0}
end
local offset = tonumber(redis.call('HGET', THREAD, 'top'))
if tonumber(arg(3)) > turn.batch then
  local events = {}
  for n = 5, #ARGV - 7, 2 do
    events[#events + 1] = {arg(n), arg(n + 1)}
  end
  if arg(4) ~= '' then
    redis.call('APPEND', TEXTS .. request, arg(4))
    redis.call('PEXPIRE', TEXTS .. request, TURN_TTL)
  end
  offset = emit(request, turn.seq, turn.envelope, events)
  redis.call('HSET', TURNS .. request, 'batch', arg(3))
end
return {verdict(turn), offset}
