--! include thread emit recall approval
-- Everything a client needs that comes without a usable cursor, as of one offset.
-- ARGV 1 subject  2 most messages  3 most bytes of them, and of what tools gave the running turns
-- Returns {code, epoch, top, messages (newest first), turns, entries (newest first), ancestry}; each turn is {request, lane,
--          state, attempt, text, approvals (JSON)}, the primary one first; entries are what else they said.
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

-- What sessions.py folds: how a tool went on is in its result, and text is kept whole beside the log.
local FOLDED = {thinking_delta = true, tool_call = true, tool_result = true, turn_restarted = true}

-- A result as the worker writes it, with a marker in the place of its output. In JSON text no quote stands alone.
local function without_output(text)
  local _, from = string.find(text, ',"output":"', 1, true)
  local till = from and string.find(text, '","success":', from, true)
  if not till then
    return text
  end
  return string.sub(text, 1, from) .. '[cut: ' .. (till - from - 1) .. ' bytes left out]' .. string.sub(text, till)
end

-- The entries of the running turns, newest first. Of tools the last outputs are kept: a turn may have read gigabytes.
local function said(first, turns)
  local STEP, newest, most, bytes = 64, '+', tonumber(arg(3)), 0
  local found, is_running = {}, {}
  for _, turn in ipairs(turns) do
    is_running[turn[1]] = true
  end
  while #turns > 0 do
    local entries = redis.call('XREVRANGE', LOG, newest, first .. '-0', 'COUNT', STEP)
    for _, entry in ipairs(entries) do
      local name, text = entry[2][2], entry[2][4]
      if FOLDED[name] and is_running[string.match(text, '"request_id":"([^"]+)"')] then
        if name == 'tool_result' then
          bytes = bytes + #text
          entry[2][4] = bytes > most and without_output(text) or text
        end
        found[#found + 1] = entry
      end
    end
    if #entries < STEP then
      break
    end
    newest = '(' .. entries[STEP][1]
  end
  return found
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
return {'ok', head[1], tonumber(head[2]), messages, turns, said(first, turns), head[4] or ''}
