--! include thread
-- Where a turn begins in the log.
-- ARGV 1 subject  2 request, '' for the primary turn
-- Returns {code, epoch, request, offset of its first event}; 0 when it has not begun, is not known, or nothing runs.
if not may_see(arg(1)) then
  return {'not_found', '', '', 0}
end
local head = redis.call('HMGET', THREAD, 'epoch', 'running')
local request = arg(2) ~= '' and arg(2) or head[2] or ''
local first = request ~= '' and redis.call('HGET', TURNS .. request, 'first')
return {'ok', head[1], request, first and tonumber(first) or 0}
