--! include slim emit
-- The owner of a turn appends a batch of events. Safe to send twice: a batch that was written is not written again.
-- Batches are numbered without a gap: where one is missing, a failover has lost it, and what follows would stand in
-- the log with a hole in front of it. Then the owner has to let go, and the turn is taken over when its lease lapses.
-- ARGV 1 request  2 fence  3 batch (1, 2, 3, … within the attempt)  4 text that these events add to the answer
--      5, 6, … name and fields of each event
-- Returns {'ok' | 'cancelled' | 'fenced', offset of the last event}.
local request, batch, text = arg(1), arg(3), arg(4)
local turn = redis.call('HMGET', TURNS .. request, 'state', 'claim', 'batch', 'seq', 'envelope', 'cancel', 'cancel_seen')
if turn[1] ~= 'running' or turn[2] ~= arg(2) or tonumber(batch) > turn[3] + 1 then
  return {'fenced', 0}
end
local offset
if tonumber(batch) > tonumber(turn[3]) then
  local events = {}
  for n = 9, #ARGV, 2 do
    events[#events + 1] = {ARGV[n], ARGV[n + 1]}
  end
  -- the first text of a turn gives the key its lifetime; the heartbeat renews it
  if text ~= '' and redis.call('APPEND', TEXTS .. request, text) == #text then
    redis.call('PEXPIRE', TEXTS .. request, TURN_TTL)
  end
  offset = emit(request, tonumber(turn[4]), turn[5], events, batch)
else
  offset = tonumber(redis.call('HGET', THREAD, 'top'))
end
if not turn[6] then
  return {'ok', offset}
end
if not turn[7] then
  -- the first time that the owner is told of a cancel is kept
  redis.call('HSET', TURNS .. request, 'cancel_seen', NOW)
end
return {'cancelled', offset}
