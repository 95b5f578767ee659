--! include line
-- A worker was woken and asks who is next. A reply that is lost loses no turn: the recoverer rings again.
-- ARGV 1 lifetime of the line (ms)
-- Returns the turn (tenant/thread/request), or '' when nobody waits.
-- Whoever is at the head of a sorted set, and its time on that set's clock.
local function first(key)
  local found = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return found[1], tonumber(found[2])
end

while true do
  local tenant, at = first(TENANTS)
  if not tenant then
    return ''
  end
  local user, user_at = first(USERS .. tenant)
  if not user then
    leave(tenant)
  else
    local turns = TURNS .. tenant .. '/' .. user
    local turn = redis.call('ZPOPMIN', turns)[1]
    if redis.call('EXISTS', turns) == 1 then
      redis.call('ZADD', USERS .. tenant, user_at + 1, user)
    else
      redis.call('ZREM', USERS .. tenant, user)
    end
    if turn then
      redis.call('HINCRBY', LINE, 'waiting', -1)
      redis.call('HINCRBY', LINE, 'waiting:' .. tenant, -1)
      redis.call('HSET', LINE, 'clock', exact(at), 'clock:' .. tenant, user_at)
      redis.call('PEXPIRE', LINE, ARGV[1])
      if redis.call('EXISTS', USERS .. tenant) == 1 then
        redis.call('ZADD', TENANTS, exact(at + 1 / weight_of(tenant)), tenant)
      else
        leave(tenant)
      end
      return turn
    end
  end
end
