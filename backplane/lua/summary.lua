--! include thread
-- What a list shows of a thread.
-- ARGV 1 subject  2 most bytes of a preview
-- Returns {'not_found'} or {'ok', title (JSON string), role of the newest message, the first bytes of its text (JSON,
--          without the quote in front, and cut anywhere), primary turn or '', its state, created (ms), active (ms)}.
if not may_see(arg(1)) then
  return {'not_found'}
end
local v = redis.call('HMGET', THREAD, 'title', 'running', 'created', 'active')
local state = v[2] and redis.call('HGET', TURNS .. v[2], 'state')
local role, text = '', ''
local newest = redis.call('XREVRANGE', SESSION, '+', '-', 'COUNT', 1)[1]
if newest then
  local message = newest[2][2]
  local _, behind, found = string.find(message, '"role":"(%w+)","content":"')
  role, text = found, string.sub(message, behind + 1, behind + arg(2))
end
return {'ok', v[1] or '""', role, text, v[2] or '', state or 'idle', v[3], v[4]}
