-- What wrk asks for: the loads of bench/systems.py, for DougDB's routes and for etcd's JSON gateway.
--
-- Arguments: the system (dougdb, etcd), the kind, keys, bytes of a value, puts in a batch or entries in a scan; for etcd
-- the value in base64.
-- All requests are made before the run, so that the generator spends its time on sending them.

local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local prepared = 8192
local requests, turn = {}, 0

local function base64(text)
  local out = {}
  for first = 1, #text, 3 do
    local a, b, c = text:byte(first, first + 2)
    local bits = a * 65536 + (b or 0) * 256 + (c or 0)
    for shift = 3, 0, -1 do
      local index = math.floor(bits / 64 ^ shift) % 64 + 1
      out[#out + 1] = alphabet:sub(index, index)
    end
    if not c then out[#out] = "=" end
    if not b then out[#out - 1] = "=" end
  end
  return table.concat(out)
end

local function key(keys)
  return string.format("bench/%08d", math.random(0, keys - 1))
end

local function of_dougdb(kind, keys, value, batch, number)
  if kind == "put" or (kind == "mixed" and number % 2 == 0) then
    return wrk.format("PUT", "/v1/kv/" .. key(keys), nil, value)
  elseif kind == "linearizable" or kind == "mixed" then
    return wrk.format("GET", "/v1/kv/" .. key(keys))
  elseif kind == "stale" then
    return wrk.format("GET", "/v1/kv/" .. key(keys) .. "?consistency=eventual")
  elseif kind == "scan" then
    return wrk.format("GET", "/v1/kv?limit=" .. batch .. "&start=" .. key(keys))
  end
  local operations = {}
  for index = 1, batch do
    operations[index] = string.format('{"op":"put","key":"%s","value":"%s"}', key(keys), value)
  end
  local body = '{"operations":[' .. table.concat(operations, ",") .. "]}"
  return wrk.format("POST", "/v1/batch", { ["content-type"] = "application/json" }, body)
end

local function of_etcd(kind, keys, value, batch, number)
  if kind == "put" or (kind == "mixed" and number % 2 == 0) then
    return wrk.format("POST", "/v3/kv/put", nil, string.format('{"key":"%s","value":"%s"}', base64(key(keys)), value))
  end
  if kind == "scan" then
    -- "bench0" is the first key behind all that begin with "bench/".
    local range = string.format('{"key":"%s","range_end":"%s","limit":%d}', base64(key(keys)), base64("bench0"), batch)
    return wrk.format("POST", "/v3/kv/range", nil, range)
  end
  local stale = kind == "stale" and ',"serializable":true' or ""
  return wrk.format("POST", "/v3/kv/range", nil, string.format('{"key":"%s"%s}', base64(key(keys)), stale))
end

function init(arguments)
  local system, kind, keys, bytes, batch = unpack(arguments)
  math.randomseed(7)
  local value = system == "etcd" and arguments[6] or string.rep("v", tonumber(bytes))
  local count = kind == "batch" and 64 or math.min(prepared, math.max(64, math.floor(64e6 / (tonumber(bytes) + 200))))
  for number = 1, count do
    if system == "etcd" then
      requests[number] = of_etcd(kind, tonumber(keys), value, tonumber(batch), number)
    else
      requests[number] = of_dougdb(kind, tonumber(keys), value, tonumber(batch), number)
    end
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  io.write(string.format(
    'figures {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d,'
      .. '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    summary.errors.connect, summary.errors.read, summary.errors.write, summary.errors.status, summary.errors.timeout))
end
