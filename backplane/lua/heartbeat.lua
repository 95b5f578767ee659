--! include thread emit session lane approval turn
-- The owner renews its lease, and with it everything that must outlive a long silent turn.
-- ARGV 1 request  2 fence  3 lease ms  4 cancel_grace ms
-- Returns 'ok', 'cancelled' or 'fenced'.
local request = arg(1)
local turn = read_turn(request)
if not owned(turn, arg(2)) then
  return 'fenced'
end
local lease_until = NOW + tonumber(arg(3))
redis.call('HSET', TURNS .. request, 'lease_until', lease_until)
look_at_running(turn, lease_until, arg(4))
redis.call('PEXPIRE', TEXTS .. request, TURN_TTL)
keep_thread()
return verdict(turn)
