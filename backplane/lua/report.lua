-- A process says what it is, for people who watch the fleet.
-- KEYS 1 members  ARGV 1 node id  2 what it says (JSON)  3 ms after which a silent member is forgotten
--      4 ms for which a look counts
-- Returns {1 when somebody looked lately, seconds, microseconds of Redis' clock}.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %s', now, ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
-- now and then, for the hash outlives each of its members
if now % 16 == 0 then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if tonumber(string.match(all[i + 1], '^%d+')) < now - tonumber(ARGV[3]) then
      redis.call('HDEL', KEYS[1], all[i])
    end
  end
end
local looked = redis.call('HGET', KEYS[1], '/looked')
local watched = looked and tonumber(looked) > now - tonumber(ARGV[4])
return {watched and 1 or 0, time[1], time[2]}
