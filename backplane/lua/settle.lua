-- Take calls that a node let pass out of the allowance that all nodes share. It may go below zero: what several nodes let
-- pass side by side is paid back before anything passes again.
-- KEYS 1 the allowance: `left now`
-- ARGV 1 calls  2 calls a second  3 calls at once  4 in how many ms they passed  5 ms for which it is kept at least
-- Returns how many calls are left, as text.
local calls, rate, most = tonumber(ARGV[1]), tonumber(ARGV[2]) / 1000, tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- one that is not there was full when the calls began
local left, at = string.match(redis.call('GET', KEYS[1]) or '', '^(-?[%d.]+) (%d+)$')
left = tonumber(left or '') or most
at = tonumber(at or '') or now - tonumber(ARGV[4])
-- no debt is greater than what a thousand nodes let pass at once: nothing wrong in it shuts anybody out for days
left = math.max(-1000 * most, math.min(most, left + math.max(0, now - at) * rate - calls))
local text = string.format('%.3f', left)
-- gone when it is full again; an hour at most, so that nothing wrong in it lasts
local kept = math.min(3600000, math.max(tonumber(ARGV[5]), math.ceil((most - left) / rate)))
redis.call('SET', KEYS[1], text .. string.format(' %d', now), 'PX', string.format('%d', kept))
return text
