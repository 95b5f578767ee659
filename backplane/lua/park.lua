--! include thread emit session lane approval turn
-- The owner lets go of a turn that waits for a person: it takes no slot until somebody has decided.
-- ARGV 1 request  2 fence
-- Returns {'waiting' | 'ready' (decided meanwhile) | 'cancelled' | 'fenced', request id to ring the doorbell for or ''}.
local request = arg(1)
local turn = read_turn(request)
if not owned(turn, arg(2)) then
  return {'fenced', ''}
end
if verdict(turn) == 'cancelled' then
  turn.state = 'ending'
  end_cancelled(turn, 'cooperative')
  return {'cancelled', deliver_next()}
end
redis.call('HSET', TURNS .. request, 'parked', 1)
if #pending_of(request) == 0 then
  make_ready(request, turn.lane, turn.deadline)
  return {'ready', request}
end
redis.call('HSET', TURNS .. request, 'state', 'waiting', 'worker', '')
keep_turn(request, turn.deadline)
look_at(request, math.min(turn.decide_by, NOW + LOOK_MS))
return {'waiting', ''}
