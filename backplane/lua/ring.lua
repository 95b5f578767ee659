--! include line
-- A turn became ready: it gets its place in the line, and one idle worker is woken. Safe to send twice: a turn has one
-- place, and each place one item in the list.
-- ARGV 1 turn (tenant/thread/request)  2 tenant  3 user  4 weight of the tenant  5 lifetime of the line (ms)
--      6 '1' for a turn that had a worker before: it goes in front of its user's others
-- Returns its place, about: 1 is next.
local turn, tenant, user, weight, lifetime = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local place = place_of(turn, tenant, user)
local items = redis.call('LLEN', BELL)
if place == 1 and redis.call('LINDEX', BELL, 0) == turn then
  return 1
end
if place == 0 and items == 0 and redis.call('EXISTS', TENANTS) == 0 then
  -- nobody waits: the worker that is woken need not ask who is next
  redis.call('RPUSH', BELL, turn)
  redis.call('PEXPIRE', BELL, lifetime)
  return 1
end
local turns = TURNS .. tenant .. '/' .. user
if not redis.call('ZSCORE', TENANTS, tenant) then
  redis.call('ZADD', TENANTS, exact(number_of('clock') + 1 / weight), tenant)
  redis.call('HSET', LINE, 'weight:' .. tenant, weight)
  redis.call('HINCRBY', LINE, 'weights', weight)
end
local before, added = 0, 0
if not redis.call('ZSCORE', USERS .. tenant, user) then
  redis.call('ZADD', USERS .. tenant, number_of('clock:' .. tenant) + 1, user)
  -- none, unless this part of the line was lost
  before = redis.call('ZCARD', turns)
end
if place == 0 then
  local number = redis.call('HINCRBY', LINE, 'number', 1)
  added = redis.call('ZADD', turns, ARGV[6] == '1' and -number or number, turn)
end
redis.call('HINCRBY', LINE, 'waiting', before + added)
redis.call('HINCRBY', LINE, 'waiting:' .. tenant, before + added)
if added == 1 or items < number_of('waiting') then
  -- the second: a worker took an item and died before it asked who is next
  redis.call('RPUSH', BELL, '')
end
for _, key in ipairs({BELL, LINE, TENANTS, USERS .. tenant, turns}) do
  redis.call('PEXPIRE', key, lifetime)
end
return place_of(turn, tenant, user)
