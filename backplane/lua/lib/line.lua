-- The line of turns that wait for a worker. It is for speed and for fairness: the truth is `ready` in the partitions,
-- and the recoverer rings again for what was lost here. Tenants take turns by their weights, and the users of a tenant
-- take turns as equals (start-time fair queueing: who has waiting turns stands at a time on the line's own clock, the
-- earliest is next, and is then put back by 1 / weight). Every step costs the same, however many wait.
-- KEYS 1 doorbell (list)  2 line (hash)  3 tenants  4 users (prefix)  5 turns (prefix)
--   doorbell   one item for each turn in the line, '' for "whoever is next"; a turn that met an empty line is named
--   line       `clock`: the time of the tenant that was served last; `number`: of the newest turn; `waiting`, `weights`:
--              how many turns wait, and the sum of their tenants' weights; and of each tenant with waiting turns
--              `waiting:TENANT`, `weight:TENANT`, `clock:TENANT` (the same clock among its users)
local BELL, LINE, TENANTS, USERS, TURNS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local function number_of(field)
  return tonumber(redis.call('HGET', LINE, field) or 0)
end

local function exact(number)
  return string.format('%.17g', number)
end

local function weight_of(tenant)
  return math.max(number_of('weight:' .. tenant), 1)
end

-- Returns the place of a turn, about: 1 is next; 0 when it does not wait in the line.
local function place_of(turn, tenant, user)
  local head = redis.call('LINDEX', BELL, 0)
  if head == turn then
    return 1
  end
  local rank = redis.call('ZRANK', TURNS .. tenant .. '/' .. user, turn)
  if not rank then
    return 0
  end
  local mine, all = number_of('waiting:' .. tenant), number_of('waiting')
  -- as if nobody else's turns ran out, and from the middle of a round: who is first in it is not looked at
  local users = redis.call('ZCARD', USERS .. tenant)
  local named = head and head ~= '' and 1 or 0
  local ahead = math.min(mine - 1, rank * users + math.floor((users - 1) / 2))
  local weight = weight_of(tenant)
  local others = math.floor((ahead + 0.5) * (number_of('weights') - weight) / weight + 0.5)
  return named + math.max(ahead, 0) + 1 + math.max(math.min(all - mine, others), 0)
end

-- A tenant has no waiting turns any more.
local function leave(tenant)
  redis.call('ZREM', TENANTS, tenant)
  redis.call('HINCRBY', LINE, 'weights', -number_of('weight:' .. tenant))
  redis.call('HINCRBY', LINE, 'waiting', -number_of('waiting:' .. tenant))
  redis.call('HDEL', LINE, 'weight:' .. tenant, 'waiting:' .. tenant, 'clock:' .. tenant)
  if redis.call('EXISTS', TENANTS) == 0 then
    -- nobody waits: what was counted begins anew, so that no error in it lasts
    redis.call('DEL', LINE)
  end
end
