-- Append events of one request to the log, and publish them, in this order and in one step: an event is in
-- the log before anyone sees it. `events` is a list of {name, fields}, fields being the inside of a JSON
-- object. The text stored is the text that clients receive. Returns the offset of the last event.
local function emit(request, seq, envelope, events)
  local head = redis.call('HMGET', THREAD, 'epoch', 'top')
  local epoch, top = head[1], tonumber(head[2])
  local lines = {epoch .. ' ' .. (top + 1)}
  for i, event in ipairs(events) do
    local offset = top + i
    local text = '{"event":"' .. event[1] .. '",' .. envelope .. ',"epoch":"' .. epoch .. '","offset":' .. offset
      .. ',"seq":' .. (seq + i - 1) .. ',"ts":' .. NOW
    if event[2] ~= '' then
      text = text .. ',' .. event[2]
    end
    text = text .. '}'
    redis.call('XADD', LOG, 'MAXLEN', '~', LOG_MAX, offset .. '-0', 'n', event[1], 'd', text)
    lines[i + 1] = event[1] .. ' ' .. text
  end
  redis.call('HSET', THREAD, 'top', top + #events)
  -- each append renews the window, so that a log that had expired is never written without one
  redis.call('PEXPIRE', LOG, REPLAY_WINDOW)
  redis.call('HSET', TURNS .. request, 'seq', seq + #events)
  redis.call(PUBLISH, LIVE, table.concat(lines, '\n'))
  return top + #events
end
