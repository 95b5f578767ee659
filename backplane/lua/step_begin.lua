--! include thread emit session lane approval turn
-- The owner begins a step that no attempt has finished. Safe to send twice: the first attempt that began it is kept.
-- ARGV 1 request  2 fence  3 step
-- Returns {'ok' | 'cancelled' | 'fenced', the attempt that began it first}.
local request = arg(1)
local turn = read_turn(request)
if not owned(turn, arg(2)) then
  return {'fenced', 0}
end
if verdict(turn) == 'cancelled' then
  return {'cancelled', 0}
end
redis.call('HSETNX', STEPS .. request, arg(3), 'begun ' .. turn.attempt)
keep_turn(request, turn.deadline)
return {'ok', tonumber(string.match(redis.call('HGET', STEPS .. request, arg(3)), '^begun (%d+)$'))}
