--! include thread emit session lane approval turn
-- A person decides, from any node. The first decision stands; what is late or comes second is told what stands.
-- ARGV 1 subject  2 request  3 id  4 decision (JSON string)  5 by (JSON string)  6 call (a fresh id)
-- Returns {code, state, decision (JSON), by (JSON), options (JSON list or ''), request id to ring the doorbell for
--          or ''}; code: 'decided' (by this call), 'already', 'invalid' (not one of the options), 'unknown' (no such
--          approval), 'not_found'.
local request, id = arg(2), arg(3)
local key = APPROVALS .. request
if not may_see(arg(1)) then
  return {'not_found', '', 'null', 'null', '', ''}
end
if not approval(request, id, 'state') then
  return {'unknown', '', 'null', 'null', '', ''}
end
local woken = ''
local function reply(code)
  local v = redis.call('HMGET', key, id .. ':state', id .. ':decision', id .. ':by', id .. ':options')
  return {code, v[1], v[2], v[3], v[4], woken}
end
local function wake()
  local turn = read_turn(request)
  if turn and turn.state == 'waiting' then
    make_ready(request, turn.lane, turn.deadline)
    woken = request
  else
    redis.call(PUBLISH, CONTROL, request)
  end
end

if approval(request, id, 'call') == arg(6) then
  return reply('decided')  -- the reply was lost, and the call sent again
end
if expire_approvals(request) > 0 then
  wake()
end
if approval(request, id, 'state') ~= 'pending' then
  return reply('already')
end
local options = approval(request, id, 'options')
if options ~= '' then
  local known = false
  for _, option in ipairs(cjson.decode(options)) do
    known = known or option == cjson.decode('[' .. arg(4) .. ']')[1]
  end
  if not known then
    return reply('invalid')
  end
end
redis.call('HSET', key, id .. ':call', arg(6))
settle_approval(request, id, 'decided', arg(4), arg(5))
wake()
return reply('decided')
