--! include thread recall branch
-- Read messages of the session, or of an older branch of it, newest first.
-- KEYS 13 branches  14 branch (prefix)
-- ARGV 1 subject, '' for a worker's own reading  2 before: only messages with a smaller id, 0 for no bound
--      3 most messages  4 branch, '' for the session as it stands  5 most bytes, 0 for no bound
-- Returns {code, session_version, messages, request, message id and time of each branch …};
-- code: 'ok', 'not_found', 'no_branch'.
if not may_see(arg(1)) then
  return {'not_found', 0, {}, {}}
end

-- Messages of a branch before one (an id, 0 for the newest), newest first; nil when there is no such branch.
local function recall_branch(named, before, most, most_bytes)
  local upper = before == '0' and math.huge or tonumber(before)
  local bound, seen = math.huge, false
  local found, read = reader(most, most_bytes)
  local function add(key, low)
    local top = math.min(bound, upper)
    -- not `..`, which writes large numbers with an exponent
    read(key, top == math.huge and '+' or string.format('(%.0f-0', top), low .. '-0')
    bound = low
  end
  for _, cut in ipairs(listed_branches(KEYS[13])) do
    seen = seen or cut.request == named
    if seen and cut.id < bound then
      add(KEYS[14] .. cut.request, cut.id)
    end
  end
  if not seen then
    return nil
  end
  add(SESSION, 0)
  return found
end

local branches = {}
for _, cut in ipairs(listed_branches(KEYS[13])) do
  for _, part in ipairs({cut.request, cut.id, cut.at}) do
    branches[#branches + 1] = part
  end
end
local messages
if arg(4) == '' then
  messages = recall(arg(2), arg(3), arg(5))
else
  messages = recall_branch(arg(4), arg(2), arg(3), arg(5))
end
local version = tonumber(redis.call('HGET', THREAD, 'session_version'))
return {messages and 'ok' or 'no_branch', version, messages or {}, branches}
