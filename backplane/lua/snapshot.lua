--! include thread session
-- Everything a client needs that comes without a usable cursor, as of one offset.
-- ARGV 1 subject  2 most messages
-- Returns {code, epoch, top, messages (newest first), running request or '', its state, attempt, text,
--          its entries but the text deltas}.
if not may_see(arg(1)) then
  return {'not_found', '', 0, {}, '', '', 0, '', {}}
end
local head = redis.call('HMGET', THREAD, 'epoch', 'top', 'running')
local messages = recall('0', arg(2))
local request = head[3] or ''
if request == '' then
  return {'ok', head[1], tonumber(head[2]), messages, '', '', 0, '', {}}
end
local v = redis.call('HMGET', TURNS .. request, 'state', 'attempt', 'first')
local entries = {}
for _, entry in ipairs(redis.call('XRANGE', LOG, v[3] .. '-0', '+')) do
  if entry[2][2] ~= 'text_delta' then
    entries[#entries + 1] = entry
  end
end
return {'ok', head[1], tonumber(head[2]), messages, request, v[1], tonumber(v[2]),
  redis.call('GET', TEXTS .. request) or '', entries}
