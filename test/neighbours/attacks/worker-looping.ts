import { hang } from '../hang.js';

export default hang('runs in an endless loop', 'SIGUSR2');
