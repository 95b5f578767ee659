--! include thread
-- Read the log after an offset, if it reaches back that far.
-- ARGV 1 subject, '' for a node's own reading  2 epoch, '' for whichever is current  3 after  4 most entries
-- Returns {code, epoch, top, entries, {primary turn, parallel turns …} that have not ended, ancestry};
-- code: 'ok' (also for an older epoch, up to where the log is shared with it), 'lost' (other epoch, or trimmed),
-- 'not_found'.
if not may_see(arg(1)) then
  return {'not_found', '', 0, {}, {}, ''}
end
local head = redis.call('HMGET', THREAD, 'epoch', 'top', 'running', 'ancestry')
local ancestry = head[4] or ''

local function shared_with(asked)
  for older, offset in string.gmatch(ancestry, '(%S+) (%d+) ') do
    if older == asked then
      return tonumber(offset)
    end
  end
  return -1
end

local epoch, top, after = head[1], tonumber(head[2]), tonumber(arg(3))
local active = redis.call('LRANGE', LANES .. 'parallel', 0, -1)
if head[3] then
  table.insert(active, 1, head[3])
end
if after > top or (arg(2) ~= '' and arg(2) ~= epoch and after > shared_with(arg(2))) then
  return {'lost', epoch, top, {}, active, ancestry}
end
if after == top then
  return {'ok', epoch, top, {}, active, ancestry}
end
-- In small steps: a page is bounded by its bytes too, for entries may be as large as a tool's output.
local STEP, MOST_BYTES = 64, 512 * 1024
local most = math.min(tonumber(arg(4)), top - after)
local entries, bytes = {}, 0
while #entries < most and bytes < MOST_BYTES do
  local from = after + #entries + 1
  local step = redis.call('XRANGE', LOG, from .. '-0', '+', 'COUNT', math.min(STEP, most - #entries))
  if not step[1] or step[1][1] ~= from .. '-0' then
    break
  end
  for _, entry in ipairs(step) do
    entries[#entries + 1] = entry
    bytes = bytes + #entry[2][4]
    if bytes >= MOST_BYTES then
      break
    end
  end
end
if #entries == 0 then
  return {'lost', epoch, top, {}, active, ancestry}
end
return {'ok', epoch, top, entries, active, ancestry}
