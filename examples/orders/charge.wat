;; Charges a card, or would if it had a network: it gives an authorization for exactly this request.
;;
;; The pointer interface of WASM tasks (docs/sandbox.md): the host asks `alloc` for room, writes the input's JSON there,
;; calls `run(pointer, length)`, and reads the JSON at the pointer and length that come back in one i64.
;;
;; Output: {"request": <the input>, "authorization": "<8 hex digits>"}, where the digits are the FNV-1a hash of the input, so
;; that the same request always gets the same authorization: charging twice by mistake would show.
(module
  (memory (export "memory") 2)
  (data (i32.const 0) "{\"request\":")            ;; 11 bytes
  (data (i32.const 16) ",\"authorization\":\"")    ;; 18 bytes
  (data (i32.const 40) "0123456789abcdef")
  (global $free (mut i32) (i32.const 1024))

  ;; Room for `length` bytes; the instance lives for one task, so nothing is ever given back.
  (func $alloc (export "alloc") (param $length i32) (result i32)
    (local $start i32)
    (local $missing i32)
    global.get $free
    local.tee $start
    local.get $length
    i32.add
    global.set $free
    ;; grow the memory by as many 64 KiB pages as are missing
    global.get $free
    i32.const 65535
    i32.add
    i32.const 16
    i32.shr_u
    memory.size
    i32.sub
    local.tee $missing
    i32.const 0
    i32.gt_s
    if
      local.get $missing
      memory.grow
      i32.const -1
      i32.eq
      if unreachable end
    end
    local.get $start)

  (func $hash (param $from i32) (param $length i32) (result i32)
    (local $hash i32)
    (local $end i32)
    i32.const 0x811c9dc5
    local.set $hash
    local.get $from
    local.get $length
    i32.add
    local.set $end
    block $done
      loop $next
        local.get $from
        local.get $end
        i32.ge_u
        br_if $done
        local.get $hash
        local.get $from
        i32.load8_u
        i32.xor
        i32.const 0x01000193
        i32.mul
        local.set $hash
        local.get $from
        i32.const 1
        i32.add
        local.set $from
        br $next
      end
    end
    local.get $hash)

  (func (export "run") (param $input i32) (param $length i32) (result i64)
    (local $hash i32)
    (local $out i32)
    (local $at i32)
    (local $shift i32)
    local.get $input
    local.get $length
    call $hash
    local.set $hash
    local.get $length
    i32.const 64
    i32.add
    call $alloc
    local.tee $out
    local.set $at
    ;; {"request":
    local.get $at
    i32.const 0
    i32.const 11
    memory.copy
    local.get $at
    i32.const 11
    i32.add
    local.tee $at
    ;; the input as it came
    local.get $input
    local.get $length
    memory.copy
    local.get $at
    local.get $length
    i32.add
    local.tee $at
    ;; ,"authorization":"
    i32.const 16
    i32.const 18
    memory.copy
    local.get $at
    i32.const 18
    i32.add
    local.set $at
    ;; eight hex digits, the highest first
    i32.const 28
    local.set $shift
    loop $digit
      local.get $at
      local.get $hash
      local.get $shift
      i32.shr_u
      i32.const 15
      i32.and
      i32.load8_u offset=40
      i32.store8
      local.get $at
      i32.const 1
      i32.add
      local.set $at
      local.get $shift
      i32.const 4
      i32.sub
      local.tee $shift
      i32.const 0
      i32.ge_s
      br_if $digit
    end
    ;; "}
    local.get $at
    i32.const 0x7d22
    i32.store16
    local.get $at
    i32.const 2
    i32.add
    local.get $out
    i32.sub
    i64.extend_i32_u
    local.get $out
    i64.extend_i32_u
    i64.const 32
    i64.shl
    i64.or))
