-- For scripts whose second run would find the work done and answer otherwise: the answer of the last call is
-- kept under a field of the thread, with the id of the call, and given again when its reply was lost.
local function answered(field, call)
  local kept = redis.call('HGET', THREAD, field)
  local id, reply = string.match(kept or '', '^(%S+) (.*)$')
  return id == call and cjson.decode(reply) or nil
end

local function answer_with(field, call, reply)
  redis.call('HSET', THREAD, field, call .. ' ' .. cjson.encode(reply))
  return reply
end
