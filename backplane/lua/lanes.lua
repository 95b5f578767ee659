--! include thread emit session lane
-- What runs, and what waits in which lane.
-- ARGV 1 subject
-- Returns {code, primary turn or '', its state, then lane, request, state, preview, created of each item …}.
if not may_see(arg(1)) then
  return {'not_found', '', ''}
end
local running = redis.call('HGET', THREAD, 'running') or ''
local reply = {'ok', running, running ~= '' and redis.call('HGET', TURNS .. running, 'state') or 'idle'}

local function add(lane, requests)
  for _, request in ipairs(requests) do
    local v = redis.call('HMGET', TURNS .. request, 'state', 'preview', 'created')
    if v[2] then
      for _, part in ipairs({lane, request, v[1], v[2], v[3]}) do
        reply[#reply + 1] = part
      end
    end
  end
end

for _, lane in ipairs(WAITING) do
  add(lane, waiting_in(lane))
end
add('parallel', redis.call('LRANGE', LANES .. 'parallel', 0, -1))
return reply
