-- Append events of one request to the log, and publish them, in this order and in one step: an event is in
-- the log before anyone sees it. `events` is a list of {name, fields}, fields being the inside of a JSON
-- object. The text stored is the text that clients receive. `batch` is the number of an owner's append, nil for
-- what others say. Returns the offset of the last event.
local function emit(request, seq, envelope, events, batch)
  local call = redis.call
  local head = call('HMGET', THREAD, 'epoch', 'top')
  local epoch, top = head[1], tonumber(head[2])
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
