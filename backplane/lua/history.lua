--! include thread session branch
-- Read messages of the session, or of an older branch of it, newest first.
-- KEYS 13 branches  14 branch (prefix)
-- ARGV 1 subject, '' for a worker's own reading  2 before: only messages with a smaller id, 0 for no bound
--      3 most messages  4 branch, '' for the session as it stands
-- Returns {code, session_version, messages, request, message id and time of each branch …};
-- code: 'ok', 'not_found', 'no_branch'.
if not may_see(arg(1)) then
  return {'not_found', 0, {}, {}}
end
local branches = {}
for _, cut in ipairs(listed_branches(KEYS[13])) do
  for _, part in ipairs({cut.request, cut.id, cut.at}) do
    branches[#branches + 1] = part
  end
end
local messages
if arg(4) == '' then
  messages = recall(arg(2), arg(3))
else
  messages = recall_branch(arg(4), arg(2), arg(3), KEYS[13], KEYS[14])
end
local version = tonumber(redis.call('HGET', THREAD, 'session_version'))
return {messages and 'ok' or 'no_branch', version, messages or {}, branches}
