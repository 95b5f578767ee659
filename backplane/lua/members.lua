-- Read what all members of the fleet said last, and note that somebody looks.
-- KEYS 1 members  ARGV 1 ms after which a silent member is forgotten
-- Returns {now (ms), {node id, 'ms what it said', …}}.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HDEL', KEYS[1], '/looked')
local all = redis.call('HGETALL', KEYS[1])
redis.call('HSET', KEYS[1], '/looked', string.format('%d', now))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {now, all}
