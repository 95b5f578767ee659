-- Add a message to what the agent remembers. `fields` is the inside of a JSON object.
-- The version lets a worker know whether its local copy is still the session.
local function remember(fields)
  local id = redis.call('HINCRBY', THREAD, 'messages', 1)
  redis.call('HINCRBY', THREAD, 'session_version', 1)
  redis.call('XADD', SESSION, 'MAXLEN', '~', SESSION_MAX, id .. '-0',
    'm', '{"id":' .. id .. ',"ts":' .. NOW .. ',' .. fields .. '}')
  redis.call('PEXPIRE', SESSION, THREAD_TTL)
end
