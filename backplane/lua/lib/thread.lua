-- Shared by every script: the keys of one thread and its partition, the clock, the settings all scripts need.
-- KEYS 1 thread  2 log  3 session  4 lanes (prefix)  5 turns (prefix)  6 texts (prefix)  7 due  8 ready
--      9 live (channel)  10 control (channel)  11 steps (prefix)  12 approvals (prefix)
-- ARGV 1 ref  2 thread_ttl ms  3 replay_window ms  4 turn_ttl ms  5 log_max_entries  6 session_max_messages
--      7 the publish command; the operation's own arguments follow and are read by arg(1), arg(2), …
-- Turns of other requests are reached as prefix .. request id: same hash tag, so the same slot of a cluster.
local THREAD, LOG, SESSION, LANES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local TURNS, TEXTS, DUE, READY, LIVE, CONTROL = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local STEPS, APPROVALS = KEYS[11], KEYS[12]
local REF = ARGV[1]
local THREAD_TTL, REPLAY_WINDOW, TURN_TTL = ARGV[2], ARGV[3], ARGV[4]
local LOG_MAX, SESSION_MAX, PUBLISH = ARGV[5], ARGV[6], ARGV[7]

local function arg(n)
  return ARGV[n + 7]
end

-- Leases and deadlines are decided by this clock alone: the clocks of nodes and workers may be wrong.
local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function member(request)
  return REF .. '/' .. request
end

-- False for a thread that does not exist and for another's: callers answer both alike. '' asks for no check.
local function may_see(subject)
  local owner = redis.call('HGET', THREAD, 'owner')
  return owner and (subject == '' or owner == subject)
end

local function keep_thread()
  redis.call('PEXPIRE', THREAD, THREAD_TTL)
  redis.call('PEXPIRE', SESSION, THREAD_TTL)
  redis.call('PEXPIRE', LOG, REPLAY_WINDOW)
end
