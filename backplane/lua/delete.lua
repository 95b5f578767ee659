--! include thread emit session lane approval turn notice branch
-- Erase a thread: its turns end first, those who watch are told, and then nothing of it is kept.
-- KEYS 13 idempotency (prefix)  14 requests  15 the key of this call, by which it is answered again when its reply was
--      lost: it holds nothing of the thread  16 branches  17 branch (prefix)  18 watchers
-- ARGV 1 subject
-- Returns {'not_found', 0} or {'deleted', when (ms)}.
local CALL_TTL = 60000
local before = redis.call('GET', KEYS[15])
if before then
  return cjson.decode(before)
end
if not may_see(arg(1)) then
  return {'not_found', 0}
end
local reply = {'deleted', NOW}
drop_all_waiting()
local active = redis.call('LRANGE', LANES .. 'parallel', 0, -1)
active[#active + 1] = redis.call('HGET', THREAD, 'running') or nil
for _, request in ipairs(active) do
  local turn = read_turn(request)
  if turn then
    end_cancelled(turn, turn.state == 'running' and 'fenced' or 'unowned')
  end
end
notify('thread_deleted', '')
-- workers keep copies of sessions
redis.call(PUBLISH, CONTROL, 'forget ' .. REF)
for _, request in ipairs(redis.call('LRANGE', KEYS[14], 0, -1)) do
  local digest = redis.call('HGET', TURNS .. request, 'digest')
  if digest then
    redis.call('UNLINK', KEYS[13] .. digest)
  end
  redis.call('UNLINK', TURNS .. request, TEXTS .. request, STEPS .. request, APPROVALS .. request)
end
for _, lane in ipairs({'followup', 'steer', 'collect', 'parallel'}) do
  redis.call('UNLINK', LANES .. lane)
end
for _, cut in ipairs(listed_branches(KEYS[16])) do
  redis.call('UNLINK', KEYS[17] .. cut.request)
end
redis.call('UNLINK', THREAD, LOG, SESSION, KEYS[14], KEYS[16], KEYS[18])
redis.call('SET', KEYS[15], cjson.encode(reply), 'PX', CALL_TTL)
return reply
