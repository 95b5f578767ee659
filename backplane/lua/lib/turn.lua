-- The states of a turn, and the only places where they change:
--   queued -> ready        deliver_next (a follow-up is handed over)      queued -> cancelled  drop_waiting
--   queued -> delivered    deliver_into (a steer, or collected context: it never is a turn)
--   (new)  -> ready        start.lua                                      ready  -> ended      end_turn
--   ready  -> running      claim.lua                                      running -> ended     end_turn
--   running -> ready       recover.lua (worker lost), release.lua (handed back)
--   running -> waiting     park.lua (nobody runs it until a person has decided)
--   waiting -> ready       decide.lua, recover.lua (nobody decided in time)
--   waiting -> ended       end_turn
-- ended is one of done, failed, cancelled, and final.

-- A ready turn whose doorbell was lost is rung again after this, then after twice the time it has waited.
local RING_AGAIN_MS = 2000
local RING_AGAIN_MAX_MS = 60000
local BACKOFF_MAX_MS = 60000
-- How often a turn that waits for a person is looked at, so that what it will need is kept.
local LOOK_MS = 60000

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
    'cancel', 'batch', 'seq', 'envelope', 'max_attempts', 'ready_at', 'worker', 'lane',
    'policy', 'paused_at', 'decide_by', 'cancel_seen', 'claim')
  if not v[1] then
    return nil
  end
  -- while a person is asked, the clock stands still
  local paused = v[15] and NOW - v[15] or 0
  return {
    request = request, state = v[1], attempt = tonumber(v[2]), lost = tonumber(v[3]),
    lease_until = tonumber(v[4]), deadline = v[5] + paused, cancel = v[6] and tonumber(v[6]),
    batch = tonumber(v[7]), seq = tonumber(v[8]), envelope = v[9], max_attempts = tonumber(v[10]),
    ready_at = tonumber(v[11]), worker = v[12], lane = v[13], policy = v[14], decide_by = tonumber(v[16] or math.huge),
    cancel_seen = v[17], claim = v[18],
  }
end

-- The fence is the attempt and the id of its claim: after a failover that lost a claim, another one may have the
-- same number.
local function owned(turn, fence)
  return turn and turn.state == 'running' and turn.claim == fence
end

-- What the owner is told. The first time that it is told of a cancel is kept.
local function verdict(turn)
  if not turn.cancel then
    return 'ok'
  end
  if not turn.cancel_seen then
    turn.cancel_seen = NOW
    redis.call('HSET', TURNS .. turn.request, 'cancel_seen', NOW)
  end
  return 'cancelled'
end

local function look_at(request, at)
  redis.call('ZADD', DUE, at, member(request))
end

-- When somebody must look at a turn that a worker runs.
local function look_at_running(turn, lease_until, cancel_grace)
  local cancel_by = turn.cancel and turn.cancel + tonumber(cancel_grace) or math.huge
  look_at(turn.request, math.min(lease_until, turn.deadline, turn.decide_by, cancel_by))
end

-- An active turn lives as long as its deadline; the end of the turn sets its last lifetime.
local function keep_turn(request, deadline)
  local decide_by = redis.call('HGET', TURNS .. request, 'decide_by') or NOW
  local left = math.max(deadline - NOW, 0) + math.max(decide_by - NOW, 0) + TURN_TTL
  redis.call('PEXPIRE', TURNS .. request, left)
  redis.call('PEXPIRE', TEXTS .. request, left)
  redis.call('PEXPIRE', STEPS .. request, left)
  redis.call('PEXPIRE', APPROVALS .. request, left)
end

-- The turn may be claimed from `at` on. Whoever called the script rings the doorbell afterwards, unless it is
-- held back: then recover.lua rings when its time has come.
local function make_ready(request, lane, deadline, at)
  at = at or NOW
  redis.call('HSET', TURNS .. request, 'state', 'ready', 'ready_at', at, 'held_back', at > NOW and 1 or 0)
  if lane ~= 'parallel' then
    redis.call('HSET', THREAD, 'running', request)
  end
  redis.call('ZADD', READY, at, member(request))
  look_at(request, math.min(at > NOW and at or NOW + RING_AGAIN_MS, deadline))
end

-- A turn begins: its message enters the session and the log. `before` are events that come first. A parallel
-- turn enters the log alone: its history is the session as it stands now.
-- Returns the offset of its chat_accepted.
local function begin(request, before)
  local v = redis.call('HMGET', TURNS .. request, 'message', 'extra', 'envelope', 'timeout', 'seq', 'lane')
  local head = redis.call('HMGET', THREAD, 'messages', 'session_version')
  local message_id, version, beside = head[1] + 1, head[2] + 1, ',"lane":"parallel"'
  if v[6] ~= 'parallel' then
    deliver_context(request)
    remember('"role":"user","content":' .. v[1] .. ',"request_id":"' .. request .. '"')
    head = redis.call('HMGET', THREAD, 'messages', 'session_version')
    message_id, version, beside = head[1], head[2], ''
  end
  local events = before
  events[#events + 1] = {'chat_accepted', '"message":' .. v[1] .. beside .. v[2]}
  local offset = emit(request, tonumber(v[5]), v[3], events)
  local deadline = NOW + tonumber(v[4])
  redis.call('HSET', TURNS .. request, 'deadline', deadline, 'first', offset, 'began', NOW,
    'message_id', message_id, 'session_version', version)
  keep_turn(request, deadline)
  make_ready(request, v[6], deadline)
  keep_thread()
  return offset
end

-- Hand the thread over to the next follow-up that waits. Returns its request id, or ''.
local function deliver_next()
  if redis.call('HEXISTS', THREAD, 'running') == 1 then
    return ''  -- a parallel turn has ended
  end
  while true do
    local request = redis.call('LPOP', LANES .. 'followup')
    if not request then
      return ''
    end
    if is_queued(request) then
      begin(request, {{'queue_item_delivered', '"item_id":"' .. request .. '","lane":"followup"'}})
      return request
    end
  end
end

-- What the session keeps of a turn: its answer, or what was said so far, marked as interrupted.
local function remember_answer(request, answer)
  if answer ~= '' then
    remember('"role":"assistant","content":' .. answer .. ',"request_id":"' .. request .. '"')
    return
  end
  local text = redis.call('GET', TEXTS .. request)
  if text and text ~= '' then
    remember('"role":"assistant","content":' .. cjson.encode(text) .. ',"interrupted":true,"request_id":"'
      .. request .. '"')
  end
end

-- What has been said and done so far stands: an attempt with the policy `resume` begins behind it.
-- `by` names the step or the question that the attempt has to pass until then.
local function keep_so_far(turn, offset, seq, by)
  redis.call('HSET', TURNS .. turn.request, 'kept_offset', offset, 'kept_seq', seq, 'kept_by', by,
    'kept_text', redis.call('STRLEN', TEXTS .. turn.request))
end

-- The one way out of a turn: answer into the session, terminal event, release. `answer` is a JSON string or ''.
local function end_turn(turn, state, name, fields, answer, before)
  local request = turn.request
  redis.call('ZREM', DUE, member(request))
  redis.call('ZREM', READY, member(request))
  if turn.lane ~= 'parallel' then
    remember_answer(request, answer)
  end
  local events = before or {}
  events[#events + 1] = {name, fields}
  turn.seq = turn.seq + withdraw_approvals(request)
  emit(request, turn.seq, turn.envelope, events)
  redis.call('HSET', TURNS .. request, 'state', state, 'ended', NOW)
  forget_input(request)
  if turn.lane == 'parallel' then
    redis.call('LREM', LANES .. 'parallel', 0, request)
  else
    redis.call('HDEL', THREAD, 'running')
    settle_steers()
  end
  keep_thread()
  if turn.state == 'running' then
    -- for speed only: the worker's next append or heartbeat is refused anyway
    redis.call(PUBLISH, CONTROL, request)
  end
end

-- The end of a cancelled turn, with the proof: when it was asked for, when its worker was told, when and how it
-- stopped. `how`: cooperative (the agent ended), hard (the agent ignored it, and was left behind), fenced (the worker
-- did not answer in time: what it still writes is refused), unowned (no worker ran it).
local function end_cancelled(turn, how, before)
  local asked = turn.cancel or NOW
  redis.call('HSET', TURNS .. turn.request, 'cancel', asked, 'stopped', how)
  end_turn(turn, 'cancelled', 'chat_error', CANCELLED .. ',"cancel_requested_ms":' .. asked
    .. ',"cancel_seen_ms":' .. (turn.cancel_seen or 'null') .. ',"cancel_stopped_ms":' .. NOW
    .. ',"stopped":"' .. how .. '"', '', before)
end
