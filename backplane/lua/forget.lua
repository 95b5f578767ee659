--! include line
-- A thread was deleted: its turns leave the line. The items that they had in the list wake a worker for nothing.
-- ARGV 1 how its turns begin (tenant/thread/)  2 tenant  3 user
-- Returns how many were taken out.
local prefix, tenant, user = ARGV[1], ARGV[2], ARGV[3]
local turns = TURNS .. tenant .. '/' .. user

local function is_its(turn)
  return string.sub(turn or '', 1, #prefix) == prefix
end

local gone = 0
if is_its(redis.call('LINDEX', BELL, 0) or '') then
  redis.call('LPOP', BELL)
  gone = 1
end
for _, turn in ipairs(redis.call('ZRANGE', turns, 0, -1)) do
  if is_its(turn) then
    redis.call('ZREM', turns, turn)
    redis.call('HINCRBY', LINE, 'waiting', -1)
    redis.call('HINCRBY', LINE, 'waiting:' .. tenant, -1)
    gone = gone + 1
  end
end
if redis.call('EXISTS', turns) == 0 then
  redis.call('ZREM', USERS .. tenant, user)
  if redis.call('EXISTS', USERS .. tenant) == 0 and redis.call('ZSCORE', TENANTS, tenant) then
    leave(tenant)
  end
end
return gone
