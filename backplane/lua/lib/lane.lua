-- The lanes of a thread, each a list of request ids, the next one first:
--   followup  messages that wait for the end of the running turn, and then are turns
--   steer     messages for the running turn: its owner takes them at its next safe point. Those it has taken stay
--             at the head of the list until the turn ends, so that another attempt gets them too
--   collect   context for the next turn
--   parallel  turns that run beside the primary one, on a fork of the history
local WAITING = {'followup', 'steer', 'collect'}

local function lane_of(request)
  return redis.call('HGET', TURNS .. request, 'lane')
end

local function is_queued(request)
  return redis.call('HGET', TURNS .. request, 'state') == 'queued'
end

-- Those of a lane that nobody has taken.
local function waiting_in(lane)
  local waiting = {}
  for _, request in ipairs(redis.call('LRANGE', LANES .. lane, 0, -1)) do
    if is_queued(request) then
      waiting[#waiting + 1] = request
    end
  end
  return waiting
end

local function put_in_lane(request, lane)
  local length = redis.call('RPUSH', LANES .. lane, request)
  redis.call('PEXPIRE', LANES .. lane, THREAD_TTL)
  return length
end

-- Tell what became of a message in a lane. Returns the offset.
local function tell(request, name, lane, fields)
  local v = redis.call('HMGET', TURNS .. request, 'seq', 'envelope')
  return emit(request, tonumber(v[1]), v[2],
    {{name, '"item_id":"' .. request .. '","lane":"' .. lane .. '"' .. fields}})
end

local function forget_input(request)
  redis.call('HDEL', TURNS .. request, 'message', 'input', 'preview')
  redis.call('DEL', TEXTS .. request, STEPS .. request)
  redis.call('PEXPIRE', TURNS .. request, TURN_TTL)
end

-- A waiting message leaves its lane without having run.
local function drop_waiting(request)
  local lane = lane_of(request)
  redis.call('LREM', LANES .. lane, 0, request)
  tell(request, 'queue_item_removed', lane, '')
  redis.call('HSET', TURNS .. request, 'state', 'cancelled', 'ended', NOW)
  forget_input(request)
end

local function drop_all_waiting()
  local dropped = {}
  for _, lane in ipairs(WAITING) do
    for _, request in ipairs(waiting_in(lane)) do
      drop_waiting(request)
      dropped[#dropped + 1] = request
    end
  end
  return dropped
end

-- A message goes into the running turn, or in front of the next one, without being a turn. `mark` says which.
local function deliver_into(request, lane, into, mark)
  local message = redis.call('HGET', TURNS .. request, 'message')
  remember('"role":"user","content":' .. message .. ',"' .. mark .. '":true,"request_id":"' .. request .. '"')
  tell(request, 'queue_item_delivered', lane, ',"into_request_id":"' .. into .. '","message":' .. message)
  redis.call('HSET', TURNS .. request, 'state', 'delivered', 'ended', NOW)
end

-- The context that was collected goes into the session, in front of the message of the turn that begins.
local function deliver_context(into)
  for _, request in ipairs(waiting_in('collect')) do
    deliver_into(request, 'collect', into, 'context')
    forget_input(request)
  end
  redis.call('DEL', LANES .. 'collect')
end

-- The turn has ended: what it took is done with, and what it never took waits in front of the follow-ups.
local function settle_steers()
  local unused = {}
  for _, request in ipairs(redis.call('LRANGE', LANES .. 'steer', 0, -1)) do
    if is_queued(request) then
      unused[#unused + 1] = request
    else
      forget_input(request)
    end
  end
  redis.call('DEL', LANES .. 'steer')
  for n = #unused, 1, -1 do
    redis.call('LPUSH', LANES .. 'followup', unused[n])
  end
  for n, request in ipairs(unused) do
    redis.call('HSET', TURNS .. request, 'lane', 'followup')
    tell(request, 'queue_item_queued', 'followup', ',"position":' .. n .. ',"from_lane":"steer","preview":'
      .. redis.call('HGET', TURNS .. request, 'preview'))
  end
  if #unused > 0 then
    redis.call('PEXPIRE', LANES .. 'followup', THREAD_TTL)
  end
end
