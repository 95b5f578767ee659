--! include thread emit recall approval
-- Everything a client needs that comes without a usable cursor, as of one offset.
-- ARGV 1 subject  2 most messages  3 most bytes of them
-- Returns {code, epoch, top, messages (newest first), turns, entries, ancestry}; each turn is {request, lane, state, attempt,
--          text,
--          approvals (JSON)}, the primary one first; entries are theirs and between them, but for the text deltas.
if not may_see(arg(1)) then
  return {'not_found', '', 0, {}, {}, {}, ''}
end

local function approvals(request)
  local found = {}
  for n, id in ipairs(asked_of(request)) do
    local v = redis.call('HMGET', APPROVALS .. request, id .. ':state', id .. ':expires', id .. ':decision',
      id .. ':by', id .. ':fields')
    found[n] = '{"approval_id":"' .. request .. '.' .. id .. '","state":"' .. v[1] .. '","expires_at":' .. v[2]
      .. ',"decision":' .. v[3] .. ',"by":' .. v[4] .. ',' .. v[5] .. '}'
  end
  return '[' .. table.concat(found, ',') .. ']'
end

local head = redis.call('HMGET', THREAD, 'epoch', 'top', 'running', 'ancestry')
local messages = recall('0', arg(2), arg(3))
local active = redis.call('LRANGE', LANES .. 'parallel', 0, -1)
if head[3] then
  table.insert(active, 1, head[3])
end
local turns, first = {}, math.huge
for _, request in ipairs(active) do
  local v = redis.call('HMGET', TURNS .. request, 'lane', 'state', 'attempt', 'first')
  if v[2] then
    first = math.min(first, tonumber(v[4]))
    turns[#turns + 1] = {request, v[1], v[2], tonumber(v[3]), redis.call('GET', TEXTS .. request) or '',
      approvals(request)}
  end
end
local entries = {}
if #turns > 0 then
  for _, entry in ipairs(redis.call('XRANGE', LOG, first .. '-0', '+')) do
    if entry[2][2] ~= 'text_delta' then
      entries[#entries + 1] = entry
    end
  end
end
return {'ok', head[1], tonumber(head[2]), messages, turns, entries, head[4] or ''}
