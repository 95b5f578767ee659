-- Branches: an edit cuts the session at a message, and what it cut off stays readable. Each branch is named by the
-- request id of the edit that made it old, and holds only what that edit cut off; what stood before it is in the
-- branches that were cut off later and lower, and in the session. A message is kept once, whatever is edited.

-- The message of a person that began a turn: this one, or ('') the newest. nil when there is none in the session.
local function editable(id)
  local function read(entry)
    local content, request = string.match(entry[2][2],
      '^{"id":%d+,"ts":%d+,"role":"user","content":(".*"),"request_id":"([^"]+)"}$')
    return content and {id = tonumber(string.match(entry[1], '^%d+')), content = content, request = request}
  end
  if id ~= '' then
    local entry = redis.call('XRANGE', SESSION, id .. '-0', id .. '-0')[1]
    return entry and read(entry) or nil
  end
  local STEP, newest = 16, '+'
  while true do
    local entries = redis.call('XREVRANGE', SESSION, newest, '-', 'COUNT', STEP)
    for _, entry in ipairs(entries) do
      local found = read(entry)
      if found then
        return found
      end
    end
    if #entries < STEP then
      return nil
    end
    newest = '(' .. entries[STEP][1]
  end
end

local function listed_branches(list)
  local found = {}
  for n, text in ipairs(redis.call('LRANGE', list, 0, -1)) do
    local request, id, at = string.match(text, '^(%S+) (%d+) (%d+)$')
    found[n] = {request = request, id = tonumber(id), at = at}
  end
  return found
end

-- Cut the session in front of a message. `request` is the edit, `most` how many branches are kept.
local function cut_session(message, request, list, branch, most)
  for _, entry in ipairs(redis.call('XRANGE', SESSION, message.id .. '-0', '+')) do
    redis.call('XADD', branch .. request, entry[1], 'm', entry[2][2])
    redis.call('XDEL', SESSION, entry[1])
  end
  redis.call('HINCRBY', THREAD, 'session_version', 1)
  redis.call('RPUSH', list, request .. ' ' .. message.id .. ' ' .. NOW)
  while redis.call('LLEN', list) > tonumber(most) do
    -- no other branch needs the oldest one: each is completed by those that came later
    redis.call('UNLINK', branch .. string.match(redis.call('LPOP', list), '^%S+'))
  end
  redis.call('PEXPIRE', list, THREAD_TTL)
  for _, kept in ipairs(listed_branches(list)) do
    redis.call('PEXPIRE', branch .. kept.request, THREAD_TTL)
  end
end
