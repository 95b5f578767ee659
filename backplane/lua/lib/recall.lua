-- Read messages, newest first, from one stream after the other: at most `most`, and none that would bring them over
-- `most_bytes` (0 for no bound), but for the first. Returns what was found, and how to read on.
local function reader(most, most_bytes)
  local STEP, found, bytes = 8, {}, 0
  most, most_bytes = tonumber(most), tonumber(most_bytes)
  if most_bytes == 0 then
    STEP, most_bytes = most, math.huge
  end
  local function read(key, newest, oldest)
    -- in small steps, for a message may be as large as an answer. Redis answers COUNT 0 with nil
    while #found < most and bytes <= most_bytes do
      local count = math.min(most - #found, STEP)
      local entries = redis.call('XREVRANGE', key, newest, oldest, 'COUNT', count)
      for _, entry in ipairs(entries) do
        -- what does not fit counts, too: a smaller one further back would leave a hole in front of it
        bytes = bytes + #entry[2][2]
        if bytes > most_bytes and #found > 0 then
          return
        end
        found[#found + 1] = entry
      end
      if #entries < count then
        return
      end
      newest = '(' .. entries[count][1]
    end
  end
  return found, read
end

-- Messages of the session before one (an id, 0 for the newest), newest first.
local function recall(before, most, most_bytes)
  local found, read = reader(most, most_bytes)
  read(SESSION, before == '0' and '+' or '(' .. before .. '-0', '-')
  return found
end
