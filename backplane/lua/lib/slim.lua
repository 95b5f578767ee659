-- In place of `thread` for append.lua, which runs once for every event of every answer: only what it needs. A
-- script pays for each key, each argument and each function of its text in every call; this halves an append.
-- KEYS 1 thread  2 log  3 turns (prefix)  4 texts (prefix)  5 live (channel)
-- ARGV 1 replay_window ms  2 turn_ttl ms  3 log_max_entries  4 the publish command; the operation's own
--      arguments follow and are read by arg(1), arg(2), …
local THREAD, LOG, TURNS, TEXTS, LIVE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local REPLAY_WINDOW, TURN_TTL, LOG_MAX, PUBLISH = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function arg(n)
  return ARGV[n + 4]
end

local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
