--! include thread notice
-- Give a thread another title, and tell those who watch.
-- ARGV 1 subject  2 title (JSON string)
-- Returns 'ok' or 'not_found'.
if not may_see(arg(1)) then
  return 'not_found'
end
redis.call('HSET', THREAD, 'title', arg(2), 'named', 1)
notify('thread_renamed', ',"title":' .. arg(2))
return 'ok'
