--! include thread emit session lane approval turn
-- The owner asks a person, or asks what became of it. Safe to send twice, and by another attempt: one id is asked once.
-- ARGV 1 request  2 fence  3 id  4 fields (inside of a JSON object)  5 expires in ms  6 options (JSON list or '')
--      7 most that one turn may ask
-- Returns {'ok' | 'cancelled' | 'fenced', state or 'too_many', decision (JSON), by (JSON)}.
local request, id = arg(1), arg(3)
local key = APPROVALS .. request
local turn = read_turn(request)
if not owned(turn, arg(2)) then
  return {'fenced', '', 'null', 'null'}
end
if verdict(turn) == 'cancelled' then
  return {'cancelled', '', 'null', 'null'}
end
if not approval(request, id, 'state') then
  local ids = asked_of(request)
  if #ids >= tonumber(arg(7)) then
    return {'ok', 'too_many', 'null', 'null'}
  end
  ids[#ids + 1] = id
  local expires = NOW + tonumber(arg(5))
  redis.call('HSET', key, 'order', table.concat(ids, ' '), id .. ':state', 'pending', id .. ':fields', arg(4),
    id .. ':options', arg(6), id .. ':expires', expires, id .. ':decision', 'null', id .. ':by', 'null')
  local offset = emit(request, turn.seq, turn.envelope, {{'approval_request',
    '"approval_id":"' .. request .. '.' .. id .. '","expires_at":' .. expires .. ',' .. arg(4)}})
  keep_so_far(turn, offset, turn.seq + 1, 'asked ' .. id)
  set_clock(request)
  turn = read_turn(request)
  keep_turn(request, turn.deadline)
  look_at_running(turn, turn.lease_until, 0)
end
expire_approvals(request)
local v = redis.call('HMGET', key, id .. ':state', id .. ':decision', id .. ':by')
return {'ok', v[1], v[2], v[3]}
