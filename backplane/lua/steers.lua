--! include thread emit session lane approval turn
-- The owner takes what steers its turn, at a safe point. Safe to send twice: what was taken stays at the head of
-- the lane, and another attempt takes it again.
-- ARGV 1 request  2 fence  3 how many this attempt has taken before
-- Returns {'ok' | 'cancelled' | 'fenced', request id and message (JSON string) of each …}.
local request = arg(1)
local turn = read_turn(request)
if not owned(turn, arg(2)) then
  return {'fenced'}
end
local reply = {verdict(turn)}
if turn.cancel or turn.lane == 'parallel' then
  return reply
end
for _, item in ipairs(redis.call('LRANGE', LANES .. 'steer', arg(3), -1)) do
  if is_queued(item) then
    deliver_into(item, 'steer', request, 'steer')
  end
  reply[#reply + 1] = item
  reply[#reply + 1] = redis.call('HGET', TURNS .. item, 'message')
end
return reply
