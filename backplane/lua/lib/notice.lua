-- Tell those who watch what is no event of the log: it has no offset, and who does not hear it now never will.
-- `fields` is the inside of a JSON object, with a comma in front, or ''.
local function notify(name, fields)
  local epoch = redis.call('HGET', THREAD, 'epoch')
  redis.call(PUBLISH, LIVE, epoch .. ' 0\n' .. name .. ' {"event":"' .. name .. '","thread_id":"'
    .. string.match(REF, '[^/]+$') .. '","epoch":"' .. epoch .. '","ts":' .. NOW .. fields .. '}')
end
