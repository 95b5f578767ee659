--! include thread emit session lane approval turn
-- A stopping worker hands a turn back. Not counted as lost: the worker went in order.
-- ARGV 1 request  2 fence
-- Returns {'ready' | 'cancelled' | 'fenced', request id to ring the doorbell for or ''}.
local request = arg(1)
local turn = read_turn(request)
if not owned(turn, arg(2)) then
  return {'fenced', ''}
end
if verdict(turn) == 'cancelled' then
  -- nobody else would hear of the cancel: a turn that waits for a slot has no owner to tell
  turn.state = 'ending'
  end_cancelled(turn, 'cooperative')
  return {'cancelled', deliver_next()}
end
make_ready(request, turn.lane, turn.deadline)
return {'ready', request}
