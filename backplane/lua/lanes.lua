--! include thread
-- What waits behind the running turn.
-- ARGV 1 subject
-- Returns {code, running request or '', its state, then request, preview, created of each waiting item …}.
if not may_see(arg(1)) then
  return {'not_found', '', ''}
end
local running = redis.call('HGET', THREAD, 'running') or ''
local reply = {'ok', running, running ~= '' and redis.call('HGET', TURNS .. running, 'state') or 'idle'}
for _, request in ipairs(redis.call('LRANGE', LANE, 0, -1)) do
  local v = redis.call('HMGET', TURNS .. request, 'preview', 'created')
  if v[1] then
    reply[#reply + 1] = request
    reply[#reply + 1] = v[1]
    reply[#reply + 1] = v[2]
  end
end
return reply
