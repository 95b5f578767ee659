-- The states of a turn, and the only places where they change:
--   queued -> ready        deliver_next (a follow-up is handed over)      queued -> cancelled  drop_waiting
--   (new)  -> ready        start.lua                                      ready  -> ended      end_turn
--   ready  -> running      claim.lua                                      running -> ended     end_turn
--   running -> ready       recover.lua (worker lost), release.lua (handed back)
-- ended is one of done, failed, cancelled, and final.

-- A ready turn whose doorbell was lost is rung again after this, then after twice the time it has waited.
local RING_AGAIN_MS = 2000
local RING_AGAIN_MAX_MS = 60000

local CANCELLED = '"message":"The turn was cancelled.","error_type":"cancelled","error_source":"user",'
  .. '"error_retryable":false'
local SUPERSEDED = '"message":"A newer message took this turn\'s place.","error_type":"superseded",'
  .. '"error_source":"user","error_retryable":false'
local TIMED_OUT = '"message":"The turn took longer than it may.","error_type":"turn_timeout",'
  .. '"error_source":"gateway","error_retryable":true'
local WORKER_LOST = '"message":"The workers that ran this turn were lost.","error_type":"worker_lost",'
  .. '"error_source":"gateway","error_retryable":true'

local function read_turn(request)
  local v = redis.call('HMGET', TURNS .. request, 'state', 'attempt', 'lost', 'lease_until', 'deadline',
    'cancel', 'batch', 'seq', 'envelope', 'max_attempts', 'ready_at', 'worker')
  if not v[1] then
    return nil
  end
  return {
    request = request, state = v[1], attempt = tonumber(v[2]), lost = tonumber(v[3]),
    lease_until = tonumber(v[4]), deadline = tonumber(v[5]), cancel = v[6] and tonumber(v[6]),
    batch = tonumber(v[7]), seq = tonumber(v[8]), envelope = v[9], max_attempts = tonumber(v[10]),
    ready_at = tonumber(v[11]), worker = v[12],
  }
end

local function owned(turn, fence)
  return turn and turn.state == 'running' and turn.attempt == tonumber(fence)
end

local function look_at(request, at)
  redis.call('ZADD', DUE, at, member(request))
end

-- The turn may be claimed from now on. Whoever called the script rings the doorbell afterwards.
local function make_ready(request, deadline)
  redis.call('HSET', TURNS .. request, 'state', 'ready', 'ready_at', NOW)
  redis.call('HSET', THREAD, 'running', request)
  redis.call('ZADD', READY, NOW, member(request))
  look_at(request, math.min(NOW + RING_AGAIN_MS, deadline))
end

-- A turn begins: its message enters the session and the log. `before` are events that come first.
-- Returns the offset of its chat_accepted.
local function begin(request, before)
  local v = redis.call('HMGET', TURNS .. request, 'message', 'extra', 'envelope', 'timeout', 'seq')
  remember('"role":"user","content":' .. v[1] .. ',"request_id":"' .. request .. '"')
  local events = before
  events[#events + 1] = {'chat_accepted', '"message":' .. v[1] .. v[2]}
  local offset = emit(request, tonumber(v[5]), v[3], events)
  local deadline = NOW + tonumber(v[4])
  redis.call('HSET', TURNS .. request, 'deadline', deadline, 'first', offset, 'began', NOW)
  -- an active turn lives as long as its deadline; the end of the turn sets its last lifetime
  redis.call('PEXPIRE', TURNS .. request, tonumber(v[4]) + TURN_TTL)
  make_ready(request, deadline)
  keep_thread()
  return offset
end

-- Hand the thread over to the next follow-up that waits. Returns its request id, or ''.
local function deliver_next()
  while true do
    local request = redis.call('LPOP', LANE)
    if not request then
      return ''
    end
    if redis.call('HGET', TURNS .. request, 'state') == 'queued' then
      begin(request, {{'queue_item_delivered', '"item_id":"' .. request .. '","lane":"followup"'}})
      return request
    end
  end
end

local function forget_input(request)
  redis.call('HDEL', TURNS .. request, 'message', 'input', 'preview')
  redis.call('DEL', TEXTS .. request)
  redis.call('PEXPIRE', TURNS .. request, TURN_TTL)
end

-- The one way out of a turn: answer into the session, terminal event, release. What was said so far is
-- kept as an interrupted answer when there is no whole one. `answer` is a JSON string or ''.
local function end_turn(turn, state, name, fields, answer, before)
  local request = turn.request
  redis.call('ZREM', DUE, member(request))
  redis.call('ZREM', READY, member(request))
  if answer ~= '' then
    remember('"role":"assistant","content":' .. answer .. ',"request_id":"' .. request .. '"')
  else
    local text = redis.call('GET', TEXTS .. request)
    if text and text ~= '' then
      remember('"role":"assistant","content":' .. cjson.encode(text) .. ',"interrupted":true,"request_id":"'
        .. request .. '"')
    end
  end
  local events = before or {}
  events[#events + 1] = {name, fields}
  emit(request, turn.seq, turn.envelope, events)
  redis.call('HSET', TURNS .. request, 'state', state, 'ended', NOW)
  redis.call('HDEL', THREAD, 'running')
  forget_input(request)
  keep_thread()
  if turn.state == 'running' then
    -- for speed only: the worker's next append or heartbeat is refused anyway
    redis.call(PUBLISH, CONTROL, request)
  end
end

-- A waiting follow-up leaves the lane without having run.
local function drop_waiting(request)
  redis.call('LREM', LANE, 0, request)
  local v = redis.call('HMGET', TURNS .. request, 'seq', 'envelope')
  emit(request, tonumber(v[1]), v[2], {{'queue_item_removed', '"item_id":"' .. request .. '","lane":"followup"'}})
  redis.call('HSET', TURNS .. request, 'state', 'cancelled', 'ended', NOW)
  forget_input(request)
end

local function drop_all_waiting()
  local dropped = redis.call('LRANGE', LANE, 0, -1)
  for _, request in ipairs(dropped) do
    drop_waiting(request)
  end
  return dropped
end
