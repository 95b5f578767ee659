--! include thread session
-- Read messages of the session, newest first.
-- ARGV 1 subject, '' for a worker's own reading  2 before: only messages with a smaller id, 0 for no bound
--      3 most messages
-- Returns {code, session_version, messages}.
if not may_see(arg(1)) then
  return {'not_found', 0, {}}
end
return {'ok', tonumber(redis.call('HGET', THREAD, 'session_version')), recall(arg(2), arg(3))}
