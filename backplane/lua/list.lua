-- Put a thread into its owner's list. The list lies in another slot than the thread, so it is no part of a step: it is
-- written again by whoever finds the thread missing.
-- KEYS 1 the list
-- ARGV 1 thread id  2 when it was last started (ms), only if it is not listed; '' for now, in any case  3 thread_ttl ms
-- Returns how many were put in.
local list, id, at = KEYS[1], ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if at and redis.call('ZSCORE', list, id) then
  return 0
end
at = at or now
-- no two threads share a place, so that a page can end between any two
while true do
  local there = redis.call('ZRANGEBYSCORE', list, at, at, 'LIMIT', 0, 1)[1]
  if not there or there == id then
    break
  end
  at = at + 1
end
redis.call('ZADD', list, at, id)
-- what is as old as this is gone, and nobody has looked
redis.call('ZREMRANGEBYSCORE', list, '-inf', now - 2 * ARGV[3])
redis.call('PEXPIRE', list, ARGV[3])
return 1
