--! include thread emit session lane turn
-- A stopping worker hands a turn back. Not counted as lost: the worker went in order.
-- ARGV 1 request  2 fence
-- Returns 'ready' (ring the doorbell), or 'fenced'.
local request = arg(1)
local turn = read_turn(request)
if not owned(turn, arg(2)) then
  return 'fenced'
end
make_ready(request, turn.lane, turn.deadline)
return 'ready'
