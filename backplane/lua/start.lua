--! include thread emit session lane approval turn requests branch
-- Start a turn, or put its message in a lane. Safe to send twice: the request id and the idempotency key both
-- lead to the answer that was given first.
-- KEYS 13 idempotency key  14 requests  15 branches  16 branch (prefix)
-- ARGV 1 request  2 subject  3 epoch for a new log  4 fingerprint of the message, '' without a key
--      5 queue_mode  6 message (JSON string)  7 extra fields of chat_accepted  8 envelope  9 input (JSON)
--      10 timeout ms  11 max_attempts  12 most items in a lane  13 client_id  14 preview (JSON string)
--      15 most parallel turns  16 policy (retry | resume | fail)
-- The mode `edit` cuts the session at a message, and begins a turn in its place; its message may be '', for the same again.
--      17 id of the message, '' for the newest  18 newest message that the asker knows of, '' for any  19 most branches
--      20 trace context of whoever asks, '' for none: its worker goes on with it
-- Returns {code} or {'accepted' | 'queued', request, epoch, offset, client_id, position, lane or '-',
--          id of the message that was cut off first or 0}.
local request, subject, fingerprint, mode = arg(1), arg(2), arg(4), arg(5)

local function answer(ack)
  local parts = {}
  for part in string.gmatch(ack, '%S+') do
    parts[#parts + 1] = part
  end
  return parts
end

local owner = redis.call('HGET', THREAD, 'owner')
-- an edit of nothing and one of another's thread end here, both behind the same steps
if (owner and owner ~= subject) or (not owner and mode == 'edit') then
  return {'not_found'}
end
local given = redis.call('HGET', TURNS .. request, 'ack')
if given then
  return answer(given)
end
if fingerprint ~= '' then
  local seen = redis.call('GET', KEYS[13])
  if seen then
    local known, ack = string.match(seen, '^(%S+) (.*)$')
    if known ~= fingerprint then
      return {'idempotency_conflict'}
    end
    return answer(ack)
  end
end

local running = redis.call('HGET', THREAD, 'running')
if running and mode == 'reject' then
  return {'turn_running', running}
end
local edited
if mode == 'edit' then
  edited = editable(arg(17))
  if not edited or (arg(18) ~= '' and tonumber(redis.call('HGET', THREAD, 'messages')) > tonumber(arg(18))) then
    return {'edit_conflict'}
  end
end
local message = arg(6) == '' and edited.content or arg(6)
local lane = ''
if mode == 'collect' or mode == 'parallel' or (running and (mode == 'followup' or mode == 'steer')) then
  lane = mode
end
if lane ~= '' and redis.call('LLEN', LANES .. lane) >= tonumber(arg(lane == 'parallel' and 15 or 12)) then
  return {'queue_full', lane}
end

if not owner then
  redis.call('HSET', THREAD, 'owner', subject, 'epoch', arg(3), 'top', 0, 'created', NOW,
    'session_version', 0, 'messages', 0, 'title', arg(14))
end
redis.call('HSET', THREAD, 'active', NOW)
redis.call('HSET', TURNS .. request, 'state', 'queued', 'attempt', 0, 'lost', 0, 'lease_until', 0,
  'deadline', 0, 'batch', 0, 'seq', 0, 'envelope', arg(8), 'max_attempts', arg(11), 'ready_at', 0,
  'worker', '', 'subject', subject, 'client_id', arg(13), 'message', message, 'extra', arg(7),
  'input', arg(9), 'timeout', arg(10), 'preview', arg(14), 'created', NOW, 'lane', lane,
  'policy', arg(16))
redis.call('PEXPIRE', TURNS .. request, THREAD_TTL)
if fingerprint ~= '' then
  redis.call('HSET', TURNS .. request, 'digest', string.match(KEYS[13], '[^/]+$'))
end
if arg(20) ~= '' then
  redis.call('HSET', TURNS .. request, 'trace', arg(20))
end
note_request(KEYS[14], request)

local state, offset, position = 'accepted', 0, 0
if lane == 'parallel' then
  put_in_lane(request, lane)
  offset = begin(request, {})
elseif lane ~= '' then
  state = 'queued'
  put_in_lane(request, lane)
  position = #waiting_in(lane)
  offset = tell(request, 'queue_item_queued', lane, ',"position":' .. position .. ',"preview":' .. arg(14) .. arg(7))
  keep_thread()
else
  local before = {}
  if edited then
    drop_all_waiting()
  end
  if running then
    end_turn(read_turn(running), 'cancelled', 'chat_error', SUPERSEDED, '')
  end
  if edited then
    if arg(6) ~= '' and redis.call('XRANGE', SESSION, '-', '+', 'COUNT', 1)[1][1] == edited.id .. '-0'
      and redis.call('HEXISTS', THREAD, 'named') == 0 then
      redis.call('HSET', THREAD, 'title', arg(14))
    end
    cut_session(edited, request, KEYS[15], KEYS[16], arg(19))
    before[1] = {'thread_edited', '"branch":"' .. request .. '","message_id":' .. edited.id
      .. ',"edited_request_id":"' .. edited.request .. '"'}
  end
  offset = begin(request, before)
end

local epoch = redis.call('HGET', THREAD, 'epoch')
local ack = table.concat({state, request, epoch, offset, arg(13), position, lane == '' and '-' or lane,
  edited and edited.id or 0}, ' ')
redis.call('HSET', TURNS .. request, 'ack', ack)
if fingerprint ~= '' then
  redis.call('SET', KEYS[13], fingerprint .. ' ' .. ack, 'PX', TURN_TTL)
end
return answer(ack)
