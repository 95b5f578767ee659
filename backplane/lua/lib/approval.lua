-- What a turn has asked a person, a hash for each turn: `order` is the ids, and of each id
--   ID:state     pending, then decided, expired (nobody decided in time) or withdrawn (the turn ended first): final
--   ID:fields    the inside of a JSON object: kind, and what is asked
--   ID:options   the JSON list of what may be decided, '' for any text
--   ID:expires   when it expires (ms)
--   ID:decision  and ID:by, as JSON, null unless decided; ID:call the call that decided
-- While something is pending, the clock of the turn's deadline stands still: `paused_at` says since when.
local function asked_of(request)
  local ids = {}
  for id in string.gmatch(redis.call('HGET', APPROVALS .. request, 'order') or '', '%S+') do
    ids[#ids + 1] = id
  end
  return ids
end

local function approval(request, id, field)
  return redis.call('HGET', APPROVALS .. request, id .. ':' .. field)
end

-- Returns the ids that are pending, and when the first of them expires.
local function pending_of(request)
  local pending, first = {}, nil
  for _, id in ipairs(asked_of(request)) do
    if approval(request, id, 'state') == 'pending' then
      pending[#pending + 1] = id
      first = math.min(first or math.huge, tonumber(approval(request, id, 'expires')))
    end
  end
  return pending, first
end

-- The clock of the deadline stands while something is pending, and goes on when nothing is.
local function set_clock(request)
  local key = TURNS .. request
  local pending, first = pending_of(request)
  local v = redis.call('HMGET', key, 'paused_at', 'deadline')
  if #pending > 0 then
    redis.call('HSET', key, 'decide_by', first, 'paused_at', v[1] or NOW)
  elseif v[1] then
    redis.call('HSET', key, 'deadline', v[2] + NOW - v[1])
    redis.call('HDEL', key, 'decide_by', 'paused_at')
  end
end

-- A question is answered, or will never be. `decision` and `by` are JSON.
local function settle_approval(request, id, state, decision, by)
  redis.call('HSET', APPROVALS .. request, id .. ':state', state, id .. ':decision', decision, id .. ':by', by)
  local v = redis.call('HMGET', TURNS .. request, 'seq', 'envelope', 'kept_seq')
  emit(request, tonumber(v[1]), v[2], {{'approval_decided', '"approval_id":"' .. request .. '.' .. id
    .. '","state":"' .. state .. '","decision":' .. decision .. ',"by":' .. by}})
  if v[3] then
    -- said by a person: an attempt that begins behind `kept_seq` does not say it again
    redis.call('HSET', TURNS .. request, 'kept_seq', v[3] + 1)
  end
  set_clock(request)
end

-- Close what nobody has decided in time. Returns how many that were.
local function expire_approvals(request)
  local expired = 0
  for _, id in ipairs((pending_of(request))) do
    if tonumber(approval(request, id, 'expires')) <= NOW then
      settle_approval(request, id, 'expired', 'null', 'null')
      expired = expired + 1
    end
  end
  return expired
end

-- The turn ends: nobody can answer any more. Returns how many events that made.
local function withdraw_approvals(request)
  local pending = pending_of(request)
  for _, id in ipairs(pending) do
    settle_approval(request, id, 'withdrawn', 'null', 'null')
  end
  redis.call('PEXPIRE', APPROVALS .. request, TURN_TTL)
  return #pending
end
