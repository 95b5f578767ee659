-- The history of one primary, without a break: a failover and a restart begin another, and so may have lost what was
-- written last. A script that is in doubt asks the server that it runs on, which no caller can be wrong about.
local LINEAGE
local function lineage()
  if not LINEAGE then
    local said = redis.pcall('INFO', 'replication')  -- a substitute for a server has no such command
    local _, before = string.find(type(said) == 'string' and said or '', 'master_replid:', 1, true)
    LINEAGE = before and string.sub(said, before + 1, before + 40) or ''
  end
  return LINEAGE
end

-- What is appended from here on may take offsets that were given before, to events which are lost. So it is another
-- epoch; `ancestry` keeps up to which offset it shares the log with those before it: `EPOCH OFFSET `, oldest first.
local MOST_ANCESTORS = 8
local function begin_epoch(epoch, top, before)
  redis.call('HSET', THREAD, 'lineage', lineage())
  if not before then
    return epoch
  end
  local ancestry, known = (redis.call('HGET', THREAD, 'ancestry') or '') .. epoch .. ' ' .. top .. ' ', 0
  for _ in string.gmatch(ancestry, '%S+ %d+ ') do
    known = known + 1
  end
  if known > MOST_ANCESTORS then
    ancestry = string.gsub(ancestry, '^%S+ %d+ ', '')
  end
  -- one lineage never forks, so its name is one for each of its epochs
  epoch = string.sub(lineage(), 1, 20)
  redis.call('HSET', THREAD, 'epoch', epoch, 'ancestry', ancestry)
  return epoch
end

-- Append events of one request to the log, and publish them, in this order and in one step: an event is in
-- the log before anyone sees it. `events` is a list of {name, fields}, fields being the inside of a JSON
-- object. The text stored is the text that clients receive. `batch` is the number of an owner's append, nil for
-- what others say. Returns the offset of the last event.
local function emit(request, seq, envelope, events, batch)
  local call = redis.call
  local head = call('HMGET', THREAD, 'epoch', 'top', 'lineage')
  local epoch, top = head[1], tonumber(head[2])
  if lineage() ~= '' and head[3] ~= lineage() then
    epoch = begin_epoch(epoch, top, head[3])
  end
  local lines = {epoch .. ' ' .. (top + 1)}
  local inside = '",' .. envelope .. ',"epoch":"' .. epoch .. '","offset":'
  for i, event in ipairs(events) do
    local name, fields = event[1], event[2]
    top = top + 1
    local text = '{"event":"' .. name .. inside .. top .. ',"seq":' .. seq .. ',"ts":' .. NOW
      .. (fields == '' and '}' or ',' .. fields .. '}')
    seq = seq + 1
    call('XADD', LOG, 'MAXLEN', '~', LOG_MAX, top .. '-0', 'n', name, 'd', text)
    lines[i + 1] = name .. ' ' .. text
  end
  call('HSET', THREAD, 'top', top)
  -- each append renews the window, so that a log that had expired is never written without one
  call('PEXPIRE', LOG, REPLAY_WINDOW)
  if batch then
    call('HSET', TURNS .. request, 'seq', seq, 'batch', batch)
  else
    call('HSET', TURNS .. request, 'seq', seq)
  end
  call(PUBLISH, LIVE, table.concat(lines, '\n'))
  return top
end
