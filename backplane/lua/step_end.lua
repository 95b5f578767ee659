--! include thread emit session lane approval turn
-- The owner records the result of a step: no attempt runs it again. Safe to send twice.
-- ARGV 1 request  2 fence  3 step  4 result (JSON)  5 most bytes that the steps of a turn may take
-- Returns 'ok', 'cancelled', 'fenced' or 'too_large'.
local request, step = arg(1), arg(3)
local turn = read_turn(request)
if not owned(turn, arg(2)) then
  return 'fenced'
end
local kept = redis.call('HGET', STEPS .. request, step) or ''
if string.sub(kept, 1, 1) ~= '=' then
  if redis.call('HINCRBY', TURNS .. request, 'steps_bytes', #step + #arg(4)) > tonumber(arg(5)) then
    redis.call('HINCRBY', TURNS .. request, 'steps_bytes', -(#step + #arg(4)))
    return 'too_large'
  end
  redis.call('HSET', STEPS .. request, step, '=' .. arg(4))
  local offset = emit(request, turn.seq, turn.envelope, {{'step_done', '"step":"' .. step .. '"'}})
  keep_so_far(turn, offset, turn.seq + 1, 'step ' .. step)
  keep_turn(request, turn.deadline)
end
return verdict(turn)
