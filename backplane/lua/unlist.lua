-- Take a thread that is gone out of its owner's list, unless it was started again since.
-- KEYS 1 the list
-- ARGV 1 thread id  2 as of when it was gone (ms)  3 only if it was listed so long ago (ms)
-- Returns how many were taken out.
local at = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if at and at <= tonumber(ARGV[2]) and at <= now - ARGV[3] then
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0
